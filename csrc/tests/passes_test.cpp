// Both passes against themselves written out in double precision; backward against differences of the forward.
// POCO_CPU names the instruction set; exit code 77 means skipped. The Python tests compare with the reference in full;
// this one also runs where there is no Python.
#include <functional>
#include <random>

#include "core/philox.h"
#include "kernel_test.h"

namespace {

std::mt19937_64 generator(1);

void check(bool ok, const char* pass, const std::string& what, double found) {
    if (ok) return;
    std::printf("FAILED: %s: %s: %g\n", pass, what.c_str(), found);
    ++failures;
}

// An array in the precision of the formulas, with the name it has in csrc/cpu/kernels.h.
struct Array {
    std::string name;
    Numbers values;
    std::vector<float> single;  // the same, as the kernels take it
    std::vector<float> grad;

    Array(std::string n, int64_t count, double scale) : name(std::move(n)), values(size_of(count)) {
        std::normal_distribution<double> normal;
        for (double& value : values) {
            single.push_back(static_cast<float>(scale * normal(generator)));
            value = static_cast<double>(single.back());
        }
        grad.assign(values.size(), std::nanf(""));
    }
    double at(int64_t i) const { return values[size_of(i)]; }
};

// <row i of a [.., d], x>
double along(const Array& a, int64_t i, const Numbers& x) {
    double total = 0;
    for (size_t j = 0; j < x.size(); ++j) total += a.values[size_of(i) * x.size() + j] * x[j];
    return total;
}

// The derivative of loss() along a random direction of each array, by differences and by its gradient.
void check_gradients(const char* pass, const std::vector<Array*>& arrays, const std::function<double()>& loss) {
    std::normal_distribution<double> normal;
    for (Array* array : arrays) {
        Numbers direction;
        double by_gradient = 0;
        double size = 0;
        for (const float g : array->grad) {
            direction.push_back(normal(generator));
            by_gradient += direction.back() * static_cast<double>(g);
            size += static_cast<double>(g) * static_cast<double>(g);
        }
        const Numbers before = array->values;
        double sides[2] = {0, 0};
        constexpr double step = 1e-5;
        for (int side = 0; side < 2; ++side) {
            for (size_t i = 0; i < before.size(); ++i) {
                array->values[i] = before[i] + (side == 0 ? step : -step) * direction[i];
            }
            sides[side] = loss();
        }
        array->values = before;
        const double off = std::fabs((sides[0] - sides[1]) / (2 * step) - by_gradient) / (std::sqrt(size) + 1e-3);
        check(off < 1e-4, pass, "gradient of " + array->name, off);
    }
}

struct Packing {
    std::vector<int32_t> offsets{0};
    std::vector<int32_t> unit_index;
    int64_t rows = 0;
    int64_t windows = 0;

    Packing(const std::vector<int32_t>& counts, int32_t units) {
        std::uniform_int_distribution<int32_t> any(0, units - 1);
        for (const int32_t count : counts) {
            for (int32_t i = 0; i < count; ++i) unit_index.push_back(any(generator));
            offsets.push_back(offsets.back() + count);
        }
        rows = offsets.back();
        windows = static_cast<int64_t>(counts.size());
    }
};

void test_latent_pool(const std::vector<int32_t>& counts, int64_t d, int64_t segments, int64_t length, int64_t latents,
                      int threads) {
    constexpr int64_t units = 11;
    const Packing rows(counts, units);
    const double scale = 1 / std::sqrt(static_cast<double>(d));
    Array x("x", rows.rows * segments * length, 1);
    Array unit_table("unit_table", units * d, 1);
    Array token_weight("token_weight", d * length, 0.5);
    Array token_bias("token_bias", d, 0.5);
    Array norm_weight("norm_weight", d, 1);
    Array norm_bias("norm_bias", d, 1);
    Array queries("queries", rows.windows * segments * latents * d, scale);
    const int64_t outputs = rows.windows * segments * latents * d;
    const Array grad_pooled("grad_pooled", outputs, 1);
    Array grad_logsumexp("grad_logsumexp", rows.windows * latents, 1);

    Numbers pooled;
    Numbers logsumexp;
    const auto forward = [&] {
        pooled.assign(size_of(outputs), 0);
        logsumexp.assign(size_of(rows.windows * latents), 0);
        for (int64_t w = 0; w < rows.windows; ++w) {
            std::vector<Numbers> y;
            for (int64_t r = rows.offsets[size_of(w)]; r < rows.offsets[size_of(w + 1)]; ++r) {
                for (int64_t s = 0; s < segments; ++s) {
                    Numbers token;
                    for (int64_t j = 0; j < d; ++j) {
                        double total = token_bias.at(j) + unit_table.at(rows.unit_index[size_of(r)] * d + j);
                        for (int64_t l = 0; l < length; ++l) {
                            total += token_weight.at(j * length + l) * x.at((r * segments + s) * length + l);
                        }
                        token.push_back(total);
                    }
                    y.push_back(normalised(token, norm_weight.values, norm_bias.values));
                }
            }
            for (int64_t m = 0; m < latents; ++m) {
                double total = 0;
                Numbers weights;
                for (size_t i = 0; i < y.size(); ++i) {
                    const int64_t s = static_cast<int64_t>(i) % segments;
                    weights.push_back(std::exp(along(queries, (w * segments + s) * latents + m, y[i])));
                    total += weights.back();
                }
                logsumexp[size_of(w * latents + m)] = y.empty() ? 0 : std::log(total);
                for (size_t i = 0; i < y.size(); ++i) {
                    const int64_t s = static_cast<int64_t>(i) % segments;
                    for (int64_t j = 0; j < d; ++j) {
                        pooled[size_of(((w * segments + s) * latents + m) * d + j)] +=
                            weights[i] / total * y[i][size_of(j)];
                    }
                }
            }
        }
    };
    forward();

    std::vector<float> mine(size_of(outputs), std::nanf(""));
    std::vector<float> mine_logsumexp(size_of(rows.windows * latents), std::nanf(""));
    poco::LatentPoolBackward<float> b;
    poco::LatentPool<float>& p = b.forward;
    p.rows = rows.rows;
    p.windows = p.query_windows = rows.windows;
    p.units = units;
    p.segments = segments;
    p.segment_length = length;
    p.width = d;
    p.latents = latents;
    p.eps = 1e-5f;
    p.threads = threads;
    p.x = x.single.data();
    p.unit_index = rows.unit_index.data();
    p.window_offsets = rows.offsets.data();
    p.unit_table = unit_table.single.data();
    p.token_weight = token_weight.single.data();
    p.token_bias = token_bias.single.data();
    p.norm_weight = norm_weight.single.data();
    p.norm_bias = norm_bias.single.data();
    p.queries = queries.single.data();
    p.pooled = mine.data();
    p.logsumexp = mine_logsumexp.data();
    poco::cpu_kernels().float32.latent_pool(p);
    check(relative_error(mine, pooled) < 1e-5, "latent_pool", "pooled", relative_error(mine, pooled));
    for (int64_t w = 0; w < rows.windows; ++w) {
        if (counts[size_of(w)] > 0) continue;
        for (int64_t m = 0; m < latents; ++m) {
            float& one = mine_logsumexp[size_of(w * latents + m)];
            check(one == -HUGE_VALF, "latent_pool", "logsumexp of an empty window", static_cast<double>(one));
            one = 0;
        }
    }
    check(relative_error(mine_logsumexp, logsumexp) < 1e-5, "latent_pool", "logsumexp",
          relative_error(mine_logsumexp, logsumexp));

    b.grad_pooled = grad_pooled.single.data();
    b.grad_logsumexp = grad_logsumexp.single.data();
    b.grad_x = x.grad.data();
    b.grad_unit_table = unit_table.grad.data();
    b.grad_token_weight = token_weight.grad.data();
    b.grad_token_bias = token_bias.grad.data();
    b.grad_norm_weight = norm_weight.grad.data();
    b.grad_norm_bias = norm_bias.grad.data();
    b.grad_queries = queries.grad.data();
    poco::cpu_kernels().float32.latent_pool_backward(b);
    check_gradients("latent_pool", {&x, &unit_table, &token_weight, &token_bias, &norm_weight, &norm_bias, &queries},
                    [&] {
                        forward();
                        double loss = 0;
                        for (size_t i = 0; i < pooled.size(); ++i) loss += pooled[i] * grad_pooled.values[i];
                        for (size_t i = 0; i < logsumexp.size(); ++i) loss += logsumexp[i] * grad_logsumexp.values[i];
                        return loss;
                    });
}

void test_film_forecast(const std::vector<int32_t>& counts, int64_t d, int64_t latents, int64_t context, int64_t hidden,
                        int64_t film, int64_t horizon, double dropout, int threads) {
    constexpr int64_t units = 11;
    constexpr uint64_t seed = 0xfedcba9876543210u;
    const Packing rows(counts, units);
    const double scale = 1 / std::sqrt(static_cast<double>(d));
    Array x("x", rows.rows * context, 1);
    Array unit_table("unit_table", units * d, 1);
    Array keys("keys", rows.windows * latents * d, scale);
    Array values("values", rows.windows * latents * d, 1);
    std::vector<Array> q;  // the parameters in their order
    q.emplace_back("attention_bias", d, 1);
    q.emplace_back("query_norm_weight", d, 1);
    q.emplace_back("query_norm_bias", d, 1);
    q.emplace_back("ffn_norm_weight", d, 1);
    q.emplace_back("ffn_norm_bias", d, 1);
    q.emplace_back("ffn_in_weight", 2 * hidden * d, scale);
    q.emplace_back("ffn_in_bias", 2 * hidden, 1);
    q.emplace_back("ffn_out_weight", d * hidden, 0.3);
    q.emplace_back("ffn_out_bias", d, 1);
    q.emplace_back("scale_weight", film * d, scale);
    q.emplace_back("scale_bias", film, 1);
    q.emplace_back("shift_weight", horizon * d, scale);
    q.emplace_back("shift_bias", horizon, 1);
    q.emplace_back("in_weight", film * context, 0.5);
    q.emplace_back("in_bias", film, 1);
    q.emplace_back("out_weight", horizon * film, 0.3);
    const Array grad("grad", rows.rows * horizon, 1);
    std::vector<uint8_t> keep(size_of(rows.rows * hidden), 1);
    poco::dropout_fill(seed, 0, rows.rows, hidden, dropout, keep.data());

    Numbers forecast;
    const auto forward = [&] {
        forecast.clear();
        int64_t w = 0;
        for (int64_t r = 0; r < rows.rows; ++r) {
            while (rows.offsets[size_of(w + 1)] <= r) ++w;
            Numbers u;
            for (int64_t j = 0; j < d; ++j) u.push_back(unit_table.at(rows.unit_index[size_of(r)] * d + j));
            const Numbers query = normalised(u, q[1].values, q[2].values);
            Numbers weights;
            double total = 0;
            for (int64_t m = 0; m < latents; ++m) {
                weights.push_back(std::exp(along(keys, w * latents + m, query)));
                total += weights.back();
            }
            Numbers e;
            for (int64_t j = 0; j < d; ++j) {
                double one = u[size_of(j)] + q[0].at(j);
                for (int64_t m = 0; m < latents; ++m) {
                    one += weights[size_of(m)] / total * values.at((w * latents + m) * d + j);
                }
                e.push_back(one);
            }
            const Numbers normed = normalised(e, q[3].values, q[4].values);
            Numbers gated;
            for (int64_t f = 0; f < hidden; ++f) {
                const double value = along(q[5], f, normed) + q[6].at(f);
                const double gate = along(q[5], hidden + f, normed) + q[6].at(hidden + f);
                const double mask = keep[size_of(r * hidden + f)] != 0 ? 1 / (1 - dropout) : 0;
                gated.push_back(value * 0.5 * gate * std::erfc(-gate / std::sqrt(2.0)) * mask);
            }
            for (int64_t j = 0; j < d; ++j) e[size_of(j)] += along(q[7], j, gated) + q[8].at(j);
            Numbers activity;
            for (int64_t c = 0; c < context; ++c) activity.push_back(x.at(r * context + c));
            Numbers product;
            for (int64_t k = 0; k < film; ++k) {
                const double in = along(q[13], k, activity) + q[14].at(k);
                product.push_back((in > 0 ? in : 0) * (along(q[9], k, e) + q[10].at(k)));
            }
            for (int64_t h = 0; h < horizon; ++h) {
                forecast.push_back(along(q[15], h, product) + along(q[11], h, e) + q[12].at(h));
            }
        }
    };
    forward();

    std::vector<float> mine(size_of(rows.rows * horizon), std::nanf(""));
    poco::FilmForecastBackward<float> b;
    poco::FilmForecast<float>& p = b.forward;
    p.rows = rows.rows;
    p.windows = rows.windows;
    p.units = units;
    p.context = context;
    p.horizon = horizon;
    p.width = d;
    p.latents = latents;
    p.ffn_width = hidden;
    p.film_width = film;
    p.eps = 1e-5f;
    p.dropout = dropout;
    p.seed = seed;
    p.threads = threads;
    p.x = x.single.data();
    p.unit_index = rows.unit_index.data();
    p.window_offsets = rows.offsets.data();
    p.unit_table = unit_table.single.data();
    p.keys = keys.single.data();
    p.values = values.single.data();
    const auto in = [&](size_t i) { return q[i].single.data(); };
    p.parameters = {in(0), in(1), in(2),  in(3),  in(4),  in(5),  in(6),  in(7),
                    in(8), in(9), in(10), in(11), in(12), in(13), in(14), in(15)};
    p.forecast = mine.data();
    poco::cpu_kernels().float32.film_forecast(p);
    check(relative_error(mine, forecast) < 1e-5, "film_forecast", "forecast", relative_error(mine, forecast));

    b.grad = grad.single.data();
    b.grad_x = x.grad.data();
    b.grad_unit_table = unit_table.grad.data();
    b.grad_keys = keys.grad.data();
    b.grad_values = values.grad.data();
    const auto out = [&](size_t i) { return q[i].grad.data(); };
    b.grad_parameters = {out(0), out(1), out(2),  out(3),  out(4),  out(5),  out(6),  out(7),
                         out(8), out(9), out(10), out(11), out(12), out(13), out(14), out(15)};
    poco::cpu_kernels().float32.film_forecast_backward(b);
    std::vector<Array*> arrays{&x, &unit_table, &keys, &values};
    for (Array& one : q) arrays.push_back(&one);
    check_gradients("film_forecast", arrays, [&] {
        forward();
        double loss = 0;
        for (size_t i = 0; i < forecast.size(); ++i) loss += forecast[i] * grad.values[i];
        return loss;
    });

    // The same numbers as a target: half the sum of the squared errors.
    forward();
    double found = std::nan("");
    b.grad = nullptr;
    b.loss = &found;
    b.target = grad.single.data();
    b.grad_scale = 1;
    for (Array* one : arrays) one->grad.assign(one->grad.size(), std::nanf(""));
    poco::cpu_kernels().float32.film_forecast_backward(b);
    const auto squares = [&] {
        double total = 0;
        for (size_t i = 0; i < forecast.size(); ++i) {
            total += (forecast[i] - grad.values[i]) * (forecast[i] - grad.values[i]);
        }
        return total;
    };
    const double off = std::fabs(found / squares() - 1);
    check(off < 1e-5, "film_forecast", "loss", off);
    check_gradients("film_forecast with a loss", arrays, [&] {
        forward();
        return squares() / 2;
    });
}

}  // namespace

int main(int argc, char** argv) {
    return test_kernels(argc, argv, [] {
        test_latent_pool({3, 0, 5}, 8, 2, 4, 3, 1);
        test_latent_pool({37, 1, 7}, 33, 3, 5, 17, 3);
        test_latent_pool({300, 2}, 20, 2, 16, 8, 2);
        test_film_forecast({3, 0, 5}, 8, 3, 6, 5, 4, 2, 0.3, 1);
        test_film_forecast({37, 1, 7}, 33, 17, 5, 70, 67, 19, 0.2, 3);
        test_film_forecast({1, 2, 60, 1}, 16, 8, 48, 20, 0, 1, 0.0, 2);
    });
}
