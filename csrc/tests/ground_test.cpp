// The kernels of a forecaster on the ground against themselves written out in double precision. POCO_CPU names the
// instruction set; exit code 77 means skipped.
#include <algorithm>
#include <limits>
#include <random>

#include "kernel_test.h"

namespace {

std::mt19937_64 generator(1);

using Values = std::vector<float>;

Values normal(int64_t count, float scale = 1, float mean = 0) {
    std::normal_distribution<float> draw(mean, scale);
    Values found;
    for (int64_t i = 0; i < count; ++i) found.push_back(draw(generator));
    return found;
}

double at(const Values& values, int64_t i) {
    return static_cast<double>(values[size_of(i)]);
}

double clip(double value, double most) {
    return std::min(std::max(value, -most), most);
}

void check(const char* what, const std::string& sizes, const Values& mine, const Numbers& exact) {
    const double off = relative_error(mine, exact);
    if (off < 1e-5) return;  // not of NaN
    std::printf("FAILED: %s of %s: off by %g\n", what, sizes.c_str(), off);
    ++failures;
}

constexpr float kNothing = std::numeric_limits<float>::quiet_NaN();

void test_latents(int64_t units, int64_t context, int64_t latents) {
    const Values x = normal(units * context), loadings = normal(units * latents);
    std::vector<uint8_t> seen;
    for (int64_t u = 0; u < units; ++u) seen.push_back(u % 5 != 2);
    Numbers exact(size_of(latents * context));
    for (int64_t u = 0; u < units; ++u) {
        for (int64_t i = 0; i < latents * context && seen[size_of(u)] != 0; ++i) {
            exact[size_of(i)] += at(loadings, u * latents + i / context) * at(x, u * context + i % context);
        }
    }
    poco::GroundLatents call;
    call.units = units;
    call.context = context;
    call.latents = latents;
    call.x = x.data();
    call.seen = seen.data();
    call.loadings = loadings.data();
    Values first;
    for (const int threads : {1, 3}) {
        Values out(exact.size(), kNothing);
        call.threads = threads;
        call.out = out.data();
        poco::cpu_kernels().ground.latents(call);
        check("latents", std::to_string(units) + " units", out, exact);
        if (first.empty()) first = out;
        if (first != out) {
            std::printf("FAILED: latents depend on the number of threads\n");
            ++failures;
        }
    }
}

struct Residual {
    Values condition_scale, in_weight, in_bias, shift, scale, out_weight, out_bias, skip;
    bool of_shape;
    float gain;
    int64_t width;

    Residual(int64_t context, int64_t horizon, int64_t hidden, bool shape, float factor)
        : condition_scale(normal(2 * horizon, 0.1f, 1)),
          in_weight(normal(hidden * context, 0.2f)),
          in_bias(normal(hidden)),
          shift(normal(hidden * 2 * horizon, 0.2f)),
          scale(normal(hidden * 2 * horizon, 0.2f)),
          out_weight(normal(horizon * hidden, 0.2f)),
          out_bias(normal(horizon)),
          skip(normal(horizon * 2 * horizon, 0.2f)),
          of_shape(shape),
          gain(factor),
          width(hidden) {}

    poco::GroundResidual call() const {
        return {of_shape,       gain,         width,        condition_scale.data(), in_weight.data(),
                in_bias.data(), shift.data(), scale.data(), out_weight.data(),      out_bias.data(),
                skip.data()};
    }
};

// What a residual adds to the forecast of one unit.
void add(const Residual& r, const Numbers& x, const Numbers& condition, double most, double* out) {
    const auto conditions = static_cast<int64_t>(condition.size()), context = static_cast<int64_t>(x.size());
    double mean = 0, square = 0;
    for (const double one : x) mean += one / static_cast<double>(context);
    for (const double one : x) square += (one - mean) * (one - mean) / static_cast<double>(context);
    const double size = r.of_shape ? std::sqrt(square + 0.05) : 1;
    Numbers e, hidden;
    for (int64_t i = 0; i < conditions; ++i) {
        e.push_back(clip(condition[size_of(i)] / size / at(r.condition_scale, i), most));
    }
    for (int64_t k = 0; k < r.width; ++k) {
        double value = at(r.in_bias, k), factor = 1;
        for (int64_t t = 0; t < context; ++t) {
            value += at(r.in_weight, k * context + t) * x[size_of(t)] / size;
        }
        for (int64_t i = 0; i < conditions; ++i) {
            value += at(r.shift, k * conditions + i) * e[size_of(i)];
            factor += at(r.scale, k * conditions + i) * e[size_of(i)];
        }
        hidden.push_back(std::max(value, 0.0) * factor);
    }
    for (int64_t h = 0; h < conditions / 2; ++h) {
        double term = at(r.out_bias, h);
        for (int64_t k = 0; k < r.width; ++k) {
            term += at(r.out_weight, h * r.width + k) * hidden[size_of(k)];
        }
        for (int64_t i = 0; i < conditions; ++i) term += at(r.skip, h * conditions + i) * e[size_of(i)];
        out[h] += static_cast<double>(r.gain) * size * term;
    }
}

void test_forecast(int64_t units, int64_t context, int64_t horizon, int64_t width, std::vector<int64_t> own,
                   std::vector<int64_t> population) {
    const Values x = normal(units * context), base = normal(horizon * context, 0.2f);
    const Values own_map = normal((own[0] + own[1]) * context, 0.5f);
    const std::vector<Values> features{normal(population[0]), normal(population[1])};
    const std::vector<Values> coefficients{normal(units * (own[0] + population[0]) * horizon, 0.2f),
                                           normal(units * (own[1] + population[1]) * horizon, 0.2f)};
    const std::vector<Residual> residuals{{context, horizon, width, false, 0.7f},
                                          {context, horizon, width, true, 0.4f},
                                          {context, horizon, width, true, 0.0f}};
    poco::GroundForecast call;
    Numbers exact;
    for (int64_t u = 0; u < units; ++u) {
        Numbers window, condition(size_of(2 * horizon)), out(size_of(horizon));
        for (int64_t t = 0; t < context; ++t) window.push_back(at(x, u * context + t));
        const auto along = [&](const Values& map, int64_t row) {
            double sum = 0;
            for (int64_t t = 0; t < context; ++t) sum += at(map, row * context + t) * window[size_of(t)];
            return sum;
        };
        for (size_t f = 0; f < 2; ++f) {
            const double gain = f == 0 ? 0.6 : 0.3;
            const int64_t count = own[f] + population[f];
            for (int64_t i = 0; i < count; ++i) {
                const bool of_unit = i < own[f];
                const double value =
                    of_unit ? clip(along(own_map, (f == 0 ? 0 : own[0]) + i), 2) : at(features[f], i - own[f]);
                for (int64_t h = 0; h < horizon; ++h) {
                    condition[size_of(h + (of_unit ? 0 : horizon))] +=
                        gain * value * at(coefficients[f], (u * count + i) * horizon + h);
                }
            }
        }
        for (int64_t h = 0; h < horizon; ++h) {
            out[size_of(h)] = along(base, h) + 0.8 * (condition[size_of(h)] + condition[size_of(horizon + h)]);
        }
        for (const Residual& residual : residuals) add(residual, window, condition, 2, out.data());
        exact.insert(exact.end(), out.begin(), out.end());
    }
    call.units = units;
    call.context = context;
    call.horizon = horizon;
    call.clip = 2;
    call.share = 0.8f;
    call.x = x.data();
    call.base = base.data();
    call.own_map = own_map.data();
    for (size_t f = 0; f < 2; ++f) {
        call.own_features[f] = own[f];
        call.population_features[f] = population[f];
        call.gains[f] = f == 0 ? 0.6f : 0.3f;
        call.population[f] = features[f].data();
        call.coefficients[f] = coefficients[f].data();
    }
    std::vector<poco::GroundResidual> calls;
    for (const Residual& residual : residuals) calls.push_back(residual.call());
    call.residuals = calls.data();
    call.residual_count = static_cast<int64_t>(calls.size());
    for (const int threads : {1, 3}) {
        Values out(exact.size(), kNothing);
        call.threads = threads;
        call.forecast = out.data();
        poco::cpu_kernels().ground.forecast(call);
        check("forecasts", std::to_string(units) + " units", out, exact);
    }
}

}  // namespace

int main(int argc, char** argv) {
    return test_kernels(argc, argv, [] {
        test_latents(1, 1, 1);
        test_latents(7, 5, 3);
        test_latents(37, 48, 8);
        test_latents(1001, 13, 17);
        test_latents(3, 4, 0);
        test_forecast(1, 1, 1, 1, {1, 0}, {0, 0});
        test_forecast(7, 5, 3, 10, {2, 1}, {3, 0});
        test_forecast(37, 12, 7, 130, {3, 2}, {5, 4});
        test_forecast(100, 48, 16, 256, {4, 3}, {24, 16});
        test_forecast(49, 50, 33, 19, {1, 1}, {2, 2});
    });
}
