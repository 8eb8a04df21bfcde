#include "cpu/inference.h"

#include "cpu/dispatch.h"
#include "cpu/inference_calls.h"

namespace poco {
namespace {

template <typename T>
void run(const Inference<T>& call) {
    InferenceCalls<T> calls(call);
    // A token is its segment's product, the bias and its unit: what is added to every unit may be added to the bias.
    Buffer<T> token_bias;
    if (call.unit_shift != nullptr) {
        for (int64_t j = 0; j < call.width; ++j) {
            token_bias.push_back(from_float<T>(to_float(calls.pool.token_bias[j]) + to_float(call.unit_shift[j])));
        }
        calls.pool.token_bias = token_bias.data();
    }
    const Passes<T>& kernels = cpu_kernels().passes<T>();
    kernels.latent_queries(calls.asking);
    kernels.film_shift(calls.shift);
    kernels.latent_pool(calls.pool);
    kernels.latent_transformer(calls.between);
    kernels.film_forecast(calls.film);
}

}  // namespace

void infer(const Inference<float>& call) {
    run(call);
}

void infer(const Inference<Bfloat16>& call) {
    run(call);
}

}  // namespace poco
