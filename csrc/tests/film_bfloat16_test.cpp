// Pass 2 in bfloat16, forward and backward, against the same in float32 on the same numbers; passes_test.cpp compares
// that with the formulas. The argument names the instruction set; those of bfloat16 are emulated where the processor
// lacks them. Exit code 77 means skipped.
#include <random>

#include "core/cpu_features.h"
#include "kernel_test.h"

namespace {

using poco::Bfloat16;

std::mt19937_64 generator(1);

// An input in both precisions, the same numbers.
struct Input {
    std::vector<Bfloat16> narrow;
    std::vector<float> wide;

    Input(int64_t count, double scale) {
        std::normal_distribution<double> normal;
        for (int64_t i = 0; i < count; ++i) {
            narrow.push_back(poco::to_bfloat16(static_cast<float>(scale * normal(generator))));
            wide.push_back(poco::to_float(narrow.back()));
        }
        narrow.push_back({0x7fc0});  // NaN: behind the end
    }
    void give(const Bfloat16*& to) const { to = narrow.data(); }
    void give(const float*& to) const { to = wide.data(); }
};

struct Shape {
    std::vector<int32_t> counts;
    int64_t width, latents, context, hidden, film, horizon;
    double dropout;
    int threads;
};

// Names of csrc/cpu/kernels.h with their sizes.
struct Named {
    const char* name;
    int64_t count;
    double scale;
};

// What a call gives: the forecast and all gradients.
using Results = std::vector<std::vector<float>>;

class Case {
public:
    explicit Case(const Shape& shape) : shape_(shape) {
        std::uniform_int_distribution<int32_t> any(0, kUnits - 1);
        for (const int32_t count : shape.counts) {
            offsets_.push_back(offsets_.back() + count);
            for (int32_t i = 0; i < count; ++i) unit_index_.push_back(any(generator));
        }
        const int64_t rows = offsets_.back(), windows = static_cast<int64_t>(shape.counts.size());
        const int64_t d = shape.width, f = shape.hidden, k = shape.film, h = shape.horizon;
        const auto like = [](int64_t n) { return 1 / std::sqrt(static_cast<double>(n > 0 ? n : 1)); };
        named_ = {{"x", rows * shape.context, 1},
                  {"unit_table", kUnits * d, 1},
                  {"keys", windows * shape.latents * d, like(d)},
                  {"values", windows * shape.latents * d, 1},
                  {"attention_bias", d, 1},
                  {"query_norm_weight", d, 1},
                  {"query_norm_bias", d, 1},
                  {"ffn_norm_weight", d, 1},
                  {"ffn_norm_bias", d, 1},
                  {"ffn_in_weight", 2 * f * d, like(d)},
                  {"ffn_in_bias", 2 * f, 1},
                  {"ffn_out_weight", d * f, like(f)},
                  {"ffn_out_bias", d, 1},
                  {"scale_weight", k * d, like(d)},
                  {"scale_bias", k, 1},
                  {"shift_weight", h * d, like(d)},
                  {"shift_bias", h, 1},
                  {"in_weight", k * shape.context, like(shape.context)},
                  {"in_bias", k, 1},
                  {"out_weight", h * k, like(k)},
                  {"grad", rows * h, 1}};
        for (const Named& one : named_) inputs_.emplace_back(one.count, one.scale);
    }

    template <typename T>
    Results run(const poco::Passes<T>& passes, int threads) const {
        Results results;
        poco::FilmForecastBackward<T> b;
        poco::FilmForecast<T>& p = b.forward;
        p.rows = offsets_.back();
        p.windows = static_cast<int64_t>(shape_.counts.size());
        p.units = kUnits;
        p.context = shape_.context;
        p.horizon = shape_.horizon;
        p.width = shape_.width;
        p.latents = shape_.latents;
        p.ffn_width = shape_.hidden;
        p.film_width = shape_.film;
        p.eps = 1e-5f;
        p.dropout = shape_.dropout;
        p.seed = 0xfedcba9876543210u;
        p.threads = threads;
        p.unit_index = unit_index_.data();
        p.window_offsets = offsets_.data();
        poco::FilmParameters<const T>& q = p.parameters;
        const T** const to[] = {&p.x,
                                &p.unit_table,
                                &p.keys,
                                &p.values,
                                &q.attention_bias,
                                &q.query_norm_weight,
                                &q.query_norm_bias,
                                &q.ffn_norm_weight,
                                &q.ffn_norm_bias,
                                &q.ffn_in_weight,
                                &q.ffn_in_bias,
                                &q.ffn_out_weight,
                                &q.ffn_out_bias,
                                &q.scale_weight,
                                &q.scale_bias,
                                &q.shift_weight,
                                &q.shift_bias,
                                &q.in_weight,
                                &q.in_bias,
                                &q.out_weight,
                                &b.grad};
        for (size_t i = 0; i < inputs_.size(); ++i) inputs_[i].give(*to[i]);
        std::vector<T> forecast(size_of(p.rows * p.horizon));
        for (T& one : forecast) std::memset(&one, 0xff, sizeof one);  // NaN
        p.forecast = forecast.data();
        passes.film_forecast(p);
        results.emplace_back();
        for (const T one : forecast) results.back().push_back(poco::to_float(one));

        for (size_t i = 0; i + 1 < named_.size(); ++i) {
            results.emplace_back(size_of(named_[i].count), std::nanf(""));
        }
        const auto out = [&](size_t i) { return results[i + 1].data(); };
        b.grad_x = out(0);
        b.grad_unit_table = out(1);
        b.grad_keys = out(2);
        b.grad_values = out(3);
        b.grad_parameters = {out(4),  out(5),  out(6),  out(7),  out(8),  out(9),  out(10), out(11),
                             out(12), out(13), out(14), out(15), out(16), out(17), out(18), out(19)};
        passes.film_forecast_backward(b);
        return results;
    }

    // Both calls against each other; one thread against several.
    void check(const poco::Passes<Bfloat16>& passes) const {
        const Results exact = run(poco::cpu_kernels_baseline.float32, 1), found = run(passes, shape_.threads);
        for (size_t n = 0; n < exact.size(); ++n) {
            const double off = relative_error(found[n], exact[n]);
            if (off < 2e-2) continue;  // NaN is not
            std::printf("FAILED: width %d, %s: %g\n", static_cast<int>(shape_.width),
                        n == 0 ? "forecast" : named_[n - 1].name, off);
            ++failures;
        }
        for (const int threads : {1, 2, 3, 5}) {  // rows are cut into tiles by it
            if (run(passes, threads) == found) continue;
            std::printf("FAILED: width %d: not the same on %d threads\n", static_cast<int>(shape_.width), threads);
            ++failures;
        }
    }

private:
    static constexpr int32_t kUnits = 11;
    Shape shape_;
    std::vector<int32_t> offsets_{0}, unit_index_;
    std::vector<Named> named_;
    std::vector<Input> inputs_;
};

}  // namespace

int main(int argc, char** argv) {
    const std::string name = argc > 1 ? argv[1] : "";
    const poco::Passes<Bfloat16>* passes = nullptr;
    for (const poco::Isa isa :
         {poco::Isa::baseline, poco::Isa::avx2, poco::Isa::avx512, poco::Isa::avx512_bf16, poco::Isa::amx}) {
        const poco::CpuKernels* const kernels = name == poco::name(isa) ? poco::cpu_kernels(isa) : nullptr;
        if (kernels != nullptr) passes = &kernels->bfloat16;
    }
    if (const poco::Passes<Bfloat16>* emulated = emulated_kernels(name)) {
        passes = emulated;
        std::printf("%s is emulated: ", name.c_str());
    }
    if (passes == nullptr) {
        std::printf("skipped: this processor cannot run %s\n", name.c_str());
        return 77;
    }
    const Shape shapes[] = {
        // counts, width, latents, context, hidden, film, horizon, dropout, threads
        {{3, 0, 5}, 8, 3, 6, 5, 4, 2, 0.3, 1},
        {{1}, 1, 1, 1, 1, 1, 1, 0, 1},
        {{7}, 37, 1, 7, 3, 0, 1, 0, 1},
        {{37, 1, 7, 0, 90}, 33, 17, 5, 70, 67, 19, 0.2, 3},
        {{1, 2, 60, 1, 95, 0, 3}, 64, 8, 48, 96, 160, 16, 0.2, 2},
        {{0, 0}, 8, 3, 6, 5, 4, 2, 0.3, 1},
        {{130}, 128, 8, 48, 160, 96, 16, 0, 2},
        {{5, 701, 0, 900}, 16, 3, 12, 35, 20, 5, 0.1, 2},  // chunks of several tiles
    };
    for (const Shape& shape : shapes) Case(shape).check(*passes);
    std::puts(failures == 0 ? "all passed" : "some failed");
    return failures == 0 ? 0 : 1;
}
