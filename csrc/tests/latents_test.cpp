// The latents between the passes, in training too, and the folded shift against themselves written out in double
// precision; backward against differences of the forward.
// POCO_CPU names the instruction set; AMX is emulated where the processor lacks it. Exit code 77 means skipped.
#include <algorithm>
#include <cstdlib>
#include <random>

#include "core/philox.h"
#include "cpu/parameters.h"
#include "kernel_test.h"

namespace {

using poco::Bfloat16;
using poco::from_float;

std::mt19937_64 generator(1);

// An array as the kernels take it, and its values.
template <typename T>
struct Array {
    std::vector<T> stored;
    Numbers values;

    explicit Array(int64_t count, double scale = 1, double around = 0) {
        std::normal_distribution<double> normal;
        for (int64_t i = 0; i < count; ++i) {
            stored.push_back(from_float<T>(static_cast<float>(around + scale * normal(generator))));
            values.push_back(static_cast<double>(poco::to_float(stored.back())));
        }
    }
    const T* data() const { return stored.data(); }
};

template <typename T>
struct Results {
    std::vector<T> stored;

    explicit Results(int64_t count) : stored(size_of(count), from_float<T>(std::nanf(""))) {}

    void check(const Numbers& exact, double tolerance, const std::string& what) const {
        const double off = relative_error(stored, exact);
        if (off < tolerance) return;
        std::printf("FAILED: %s: %g\n", what.c_str(), off);
        ++failures;
    }
};

// y = W x, W [rows, x.size()] from its element `first` on.
Numbers times(const Numbers& w, int64_t first, int64_t rows, const Numbers& x) {
    Numbers y;
    for (int64_t i = 0; i < rows; ++i) {
        double sum = 0;
        for (size_t k = 0; k < x.size(); ++k) sum += w[size_of(first) + size_of(i) * x.size() + k] * x[k];
        y.push_back(sum);
    }
    return y;
}

// y = W^T x, W [x.size(), columns].
Numbers transposed_times(const Numbers& w, int64_t columns, const Numbers& x) {
    Numbers y(size_of(columns));
    for (size_t k = 0; k < x.size(); ++k) {
        for (size_t j = 0; j < y.size(); ++j) y[j] += w[k * y.size() + j] * x[k];
    }
    return y;
}

void add(Numbers& to, const Numbers& more) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += more[i];
}

Numbers part(const Numbers& from, int64_t first, int64_t count) {
    return Numbers(from.begin() + first, from.begin() + first + count);
}

Numbers turned(Numbers head, const Array<float>& frequencies, double time) {
    for (size_t i = 0; i < frequencies.values.size(); ++i) {
        const double c = std::cos(time * frequencies.values[i]), s = std::sin(time * frequencies.values[i]);
        const double even = head[2 * i], odd = head[2 * i + 1];
        head[2 * i] = even * c - odd * s;
        head[2 * i + 1] = odd * c + even * s;
    }
    return head;
}

template <typename T>
struct FeedForward {
    Array<T> norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias;
    int64_t d, hidden;

    FeedForward(int64_t width, int64_t columns)
        : norm_weight(width, 0.2, 1),
          norm_bias(width, 0.2),
          in_weight(2 * columns * width, root(width)),
          in_bias(2 * columns),
          out_weight(width * columns, root(columns)),
          out_bias(width),
          d(width),
          hidden(columns) {}

    static double root(int64_t columns) { return 1 / std::sqrt(static_cast<double>(columns)); }
    poco::FeedForward<T> call() const {
        return {norm_weight.data(), norm_bias.data(),  in_weight.data(),
                in_bias.data(),     out_weight.data(), out_bias.data()};
    }
    // `mask`: of the hidden columns; empty drops nothing.
    Numbers apply(const Numbers& z, const Numbers& mask = {}) const {
        Numbers wide = times(in_weight.values, 0, 2 * hidden, normalised(z, norm_weight.values, norm_bias.values));
        add(wide, in_bias.values);
        Numbers gated;
        for (int64_t f = 0; f < hidden; ++f) {
            const double gate = wide[size_of(hidden + f)];
            gated.push_back(wide[size_of(f)] * 0.5 * gate * std::erfc(-gate / std::sqrt(2.0)));
            if (!mask.empty()) gated.back() *= mask[size_of(f)];
        }
        Numbers branch = times(out_weight.values, 0, d, gated);
        add(branch, out_bias.values);
        return branch;
    }
    std::vector<Array<T>*> all() { return {&norm_weight, &norm_bias, &in_weight, &in_bias, &out_weight, &out_bias}; }
};

struct Shape {
    int64_t windows, initial_windows, segments, latents, d, dh, heads, hidden, context;
    int threads;
};

// All there is between the passes, with one layer.
template <typename T>
struct Latents {
    Shape s;
    int64_t inner;
    double by_d, by_dh, by_inner;
    Array<float> frequencies, pooled;
    Array<T> initial, read_value, read_output, read_bias;
    FeedForward<T> read_ffn;
    Array<T> norm_weight, norm_bias, projection, output, output_bias;
    FeedForward<T> ffn;
    Array<T> write_weight, write_bias, write_key, write_value, write_query, write_output;

    explicit Latents(const Shape& shape)
        : s(shape),
          inner(s.heads * s.dh),
          by_d(FeedForward<T>::root(s.d)),
          by_dh(FeedForward<T>::root(s.dh)),
          by_inner(FeedForward<T>::root(inner)),
          frequencies(s.dh / 4, 3),
          pooled(s.windows * s.segments * s.latents * s.d),
          initial(s.initial_windows * s.latents * s.d),
          read_value(s.dh * s.d, by_d),
          read_output(s.d * s.dh, by_dh),
          read_bias(s.d),
          read_ffn(s.d, s.hidden),
          norm_weight(s.d, 0.2, 1),
          norm_bias(s.d, 0.2),
          projection(3 * inner * s.d, by_d),
          output(s.d * inner, by_inner),
          output_bias(s.d),
          ffn(s.d, s.hidden),
          write_weight(s.d, 0.2, 1),
          write_bias(s.d, 0.2),
          write_key(s.dh * s.d, by_d),
          write_value(s.dh * s.d, by_d),
          write_query(s.dh * s.d, by_d),
          write_output(s.d * s.dh, by_dh) {}

    // LatentParameters of poco/ops/parameters.py.
    std::vector<Array<T>*> parameters() {
        std::vector<Array<T>*> all{&read_value, &read_output, &read_bias};
        for (Array<T>* one : read_ffn.all()) all.push_back(one);
        for (Array<T>* one : {&norm_weight, &norm_bias, &projection, &output, &output_bias}) all.push_back(one);
        for (Array<T>* one : ffn.all()) all.push_back(one);
        for (Array<T>* one : {&write_weight, &write_bias, &write_key, &write_value, &write_query, &write_output}) {
            all.push_back(one);
        }
        return all;
    }

    double latent_time(int64_t m) const {
        const double apart = static_cast<double>(s.context) / static_cast<double>(s.latents);
        return static_cast<double>(static_cast<float>(static_cast<double>(m) * apart));
    }
    double segment_time(int64_t segment) const { return static_cast<double>(segment * (s.context / s.segments)); }

    Numbers queries() const {
        Numbers all;
        for (int64_t w = 0; w < s.initial_windows; ++w) {
            for (int64_t segment = 0; segment < s.segments; ++segment) {
                for (int64_t m = 0; m < s.latents; ++m) {
                    const Numbers z = normalised(part(initial.values, (w * s.latents + m) * s.d, s.d),
                                                 write_weight.values, write_bias.values);
                    const Numbers q = turned(times(write_key.values, 0, s.dh, z), frequencies,
                                             latent_time(m) - segment_time(segment));
                    for (const double one : transposed_times(write_query.values, s.d, q)) all.push_back(one * by_dh);
                }
            }
        }
        return all;
    }

    // Keys, then values. `mask`: [windows * latents, columns] of all places that drop, see kernels.h; empty drops
    // nothing.
    Numbers keys_and_values(const Numbers& mask = {}) const {
        const int64_t d = s.d, dh = s.dh, few = s.latents;
        const int64_t wide = (s.hidden + 3) / 4 * 4, narrow = (d + 3) / 4 * 4, columns = 2 * (wide + narrow);
        const auto mask_of = [&](int64_t token, int64_t first, int64_t count) {
            return mask.empty() ? Numbers{} : part(mask, token * columns + first, count);
        };
        const auto add_masked = [](Numbers& to, Numbers more, const Numbers& by) {
            for (size_t i = 0; i < by.size(); ++i) more[i] *= by[i];
            add(to, more);
        };
        Numbers keys, values;
        for (int64_t w = 0; w < s.windows; ++w) {
            std::vector<Numbers> z, q, k, v;
            for (int64_t m = 0; m < few; ++m) {
                Numbers sum(size_of(dh));
                for (int64_t segment = 0; segment < s.segments; ++segment) {
                    const Numbers p = part(pooled.values, ((w * s.segments + segment) * few + m) * d, d);
                    add(sum, turned(times(read_value.values, 0, dh, p), frequencies,
                                    segment_time(segment) - latent_time(m)));
                }
                z.push_back(part(initial.values, ((s.initial_windows > 1 ? w : 0) * few + m) * d, d));
                add(z.back(), times(read_output.values, 0, d, sum));
                add(z.back(), read_bias.values);
                add(z.back(), read_ffn.apply(z.back(), mask_of(w * few + m, 0, s.hidden)));
            }
            std::vector<Numbers> attended(size_of(few));
            for (int64_t head = 0; head < s.heads; ++head) {
                q.clear(), k.clear(), v.clear();
                for (int64_t m = 0; m < few; ++m) {
                    const Numbers x = normalised(z[size_of(m)], norm_weight.values, norm_bias.values);
                    const auto of = [&](int64_t which) {
                        const int64_t first = (which * s.heads + head) * dh * d;
                        return turned(times(projection.values, first, dh, x), frequencies, latent_time(m));
                    };
                    q.push_back(of(0)), k.push_back(of(1)), v.push_back(of(2));
                }
                for (int64_t m = 0; m < few; ++m) {
                    Numbers sum(size_of(dh));
                    double total = 0;
                    for (int64_t n = 0; n < few; ++n) {
                        const double weight = std::exp(times(k[size_of(n)], 0, 1, q[size_of(m)])[0] * by_dh);
                        total += weight;
                        for (size_t c = 0; c < sum.size(); ++c) sum[c] += weight * v[size_of(n)][c];
                    }
                    for (double& one : sum) one /= total;
                    for (const double one : turned(sum, frequencies, -latent_time(m))) {
                        attended[size_of(m)].push_back(one);
                    }
                }
            }
            for (int64_t m = 0; m < few; ++m) {
                Numbers& one = z[size_of(m)];
                const int64_t token = w * few + m;
                Numbers branch = times(output.values, 0, d, attended[size_of(m)]);
                add(branch, output_bias.values);
                add_masked(one, branch, mask_of(token, wide, d));
                branch = ffn.apply(one, mask_of(token, wide + narrow, s.hidden));
                add_masked(one, branch, mask_of(token, 2 * wide + narrow, d));
                const Numbers x = normalised(one, write_weight.values, write_bias.values);
                const Numbers key = turned(times(write_key.values, 0, dh, x), frequencies,
                                           latent_time(m) - static_cast<double>(s.context));
                for (const double e : transposed_times(write_query.values, d, key)) keys.push_back(e * by_dh);
                for (const double e : times(write_output.values, 0, d, times(write_value.values, 0, dh, x))) {
                    values.push_back(e);
                }
            }
        }
        keys.insert(keys.end(), values.begin(), values.end());
        return keys;
    }
};

// The call without its results; `layer` is room.
template <typename T>
poco::LatentTransformer<T> call_of(const Latents<T>& l, poco::LatentLayer<T>& layer) {
    const Shape& s = l.s;
    poco::LatentTransformer<T> p;
    p.windows = s.windows;
    p.initial_windows = s.initial_windows;
    p.segments = s.segments;
    p.latents = s.latents;
    p.width = s.d;
    p.head_width = s.dh;
    p.heads = s.heads;
    p.ffn_width = s.hidden;
    p.layers = 1;
    p.context = s.context;
    p.eps = 1e-5f;
    p.threads = s.threads;
    p.frequencies = l.frequencies.data();
    p.pooled = l.pooled.data();
    p.initial = l.initial.data();
    p.read_value_weight = l.read_value.data();
    p.read_output_weight = l.read_output.data();
    p.read_output_bias = l.read_bias.data();
    p.read_ffn = l.read_ffn.call();
    layer = {l.norm_weight.data(), l.norm_bias.data(),   l.projection.data(),
             l.output.data(),      l.output_bias.data(), l.ffn.call()};
    p.layer = &layer;
    p.write_norm_weight = l.write_weight.data();
    p.write_norm_bias = l.write_bias.data();
    p.write_key_weight = l.write_key.data();
    p.write_value_weight = l.write_value.data();
    p.write_query_weight = l.write_query.data();
    p.write_output_weight = l.write_output.data();
    return p;
}

template <typename T>
void test_latents(const Shape& s, double tolerance, const poco::Passes<T>& kernels) {
    Latents<T> l(s);
    poco::LatentQueries<T> before;
    before.windows = s.initial_windows;
    before.segments = s.segments;
    before.latents = s.latents;
    before.width = s.d;
    before.head_width = s.dh;
    before.context = s.context;
    before.eps = 1e-5f;
    before.threads = s.threads;
    before.frequencies = l.frequencies.data();
    before.initial = l.initial.data();
    before.norm_weight = l.write_weight.data();
    before.norm_bias = l.write_bias.data();
    before.query_weight = l.write_key.data();
    before.key_weight = l.write_query.data();
    Results<T> my_queries(s.initial_windows * s.segments * s.latents * s.d);
    before.queries = my_queries.stored.data();
    kernels.latent_queries(before);
    my_queries.check(l.queries(), tolerance, "latent_queries");

    poco::LatentLayer<T> layer;
    poco::LatentTransformer<T> p = call_of(l, layer);
    const int64_t each = s.windows * s.latents * s.d;
    Results<T> mine(2 * each);
    p.keys = mine.stored.data();
    p.values = p.keys + each;
    kernels.latent_transformer(p);
    mine.check(l.keys_and_values(), tolerance, "latent_transformer");

    // The same out of a list of parameters.
    std::vector<const T*> list;
    for (const Array<T>* one : l.parameters()) list.push_back(one->data());
    CHECK(static_cast<int64_t>(list.size()) == poco::latent_parameter_count(p.layers));
    std::vector<poco::LatentLayer<T>> layers;
    poco::Parameters<T>(list.data()).into(p, layers);
    Results<T> again(2 * each);
    p.keys = again.stored.data();
    p.values = p.keys + each;
    kernels.latent_transformer(p);
    CHECK(std::equal(again.stored.begin(), again.stored.end(), mine.stored.begin(),
                     [](T a, T b) { return poco::to_float(a) == poco::to_float(b); }));
}

// Forward with dropout, and the backward: the derivative of a random sum of the results along a random direction of
// each array, by differences and by its gradient.
template <typename T>
void test_training(const Shape& s, double tolerance, const poco::Passes<T>& kernels) {
    Latents<T> l(s);
    const int64_t tokens = s.windows * s.latents, each = tokens * s.d;
    const int64_t wide = (s.hidden + 3) / 4 * 4, narrow = (s.d + 3) / 4 * 4, columns = 2 * (wide + narrow);
    poco::LatentTrainingBackward<T> back;
    poco::LatentTraining<T>& training = back.forward;
    training.ffn_dropout = 0.2;
    training.dropout = 0.4;
    training.seed = 0x123456789abcdefu;
    Numbers mask;
    std::vector<uint8_t> keep[2];
    for (int i = 0; i < 2; ++i) {
        keep[i].resize(size_of(tokens * columns));
        poco::dropout_fill(training.seed, 0, tokens, columns, i == 0 ? 0.2 : 0.4, keep[i].data());
    }
    for (size_t i = 0; i < keep[0].size(); ++i) {
        const int64_t column = static_cast<int64_t>(i) % columns;
        const bool hidden = column < wide || (column >= wide + narrow && column < 2 * wide + narrow);
        mask.push_back(hidden ? keep[0][i] / 0.8 : keep[1][i] / 0.6);
    }

    poco::LatentLayer<T> layer;
    training.forward = call_of(l, layer);
    const poco::LatentTiles tiles = kernels.latent_tiles(training.forward);
    std::vector<char> kept(size_of((s.windows + tiles.windows - 1) / tiles.windows * tiles.bytes) + 64);
    training.kept = kept.data() + (64 - reinterpret_cast<uintptr_t>(kept.data()) % 64) % 64;
    Results<T> mine(2 * each);
    training.forward.keys = mine.stored.data();
    training.forward.values = training.forward.keys + each;
    kernels.latent_training(training);
    mine.check(l.keys_and_values(mask), tolerance, "latent_training");

    const Array<float> grad(2 * each);
    back.grad_keys = grad.data();
    back.grad_values = grad.data() + each;
    std::vector<Results<float>> gradients;
    const std::vector<Array<T>*> parameters = l.parameters();
    gradients.emplace_back(static_cast<int64_t>(l.pooled.values.size()));
    gradients.emplace_back(static_cast<int64_t>(l.initial.values.size()));
    for (const Array<T>* one : parameters) gradients.emplace_back(static_cast<int64_t>(one->values.size()));
    std::vector<float*> addresses;
    for (Results<float>& one : gradients) addresses.push_back(one.stored.data());
    back.grad_pooled = addresses[0];
    back.grad_initial = addresses[1];
    back.grad_parameters = addresses.data() + 2;
    kernels.latent_training_backward(back);

    std::vector<Numbers*> arrays{&l.pooled.values, &l.initial.values};
    for (Array<T>* one : parameters) arrays.push_back(&one->values);
    std::normal_distribution<double> normal;
    for (size_t i = 0; i < arrays.size(); ++i) {
        const Numbers at = *arrays[i];
        Numbers direction;
        double by_gradient = 0, size = 0, sides[2] = {0, 0};
        for (const float g : gradients[i].stored) {
            direction.push_back(normal(generator));
            by_gradient += direction.back() * static_cast<double>(g);
            size += static_cast<double>(g) * static_cast<double>(g);
        }
        constexpr double step = 1e-5;
        for (int side = 0; side < 2; ++side) {
            for (size_t j = 0; j < at.size(); ++j) (*arrays[i])[j] = at[j] + (side == 0 ? step : -step) * direction[j];
            const Numbers results = l.keys_and_values(mask);
            for (size_t j = 0; j < results.size(); ++j) sides[side] += results[j] * grad.values[j];
        }
        *arrays[i] = at;
        const double off = std::fabs((sides[0] - sides[1]) / (2 * step) - by_gradient) / (std::sqrt(size) + 1e-3);
        if (off < 30 * tolerance) continue;
        std::printf("FAILED: latent_training_backward: gradient %d: %g\n", static_cast<int>(i), off);
        ++failures;
    }
}

template <typename T>
void test_shift(int64_t horizon, int64_t film, int64_t d, int threads, double tolerance,
                const poco::Passes<T>& kernels) {
    const Array<T> output(horizon * film), output_bias(horizon), shift(film * d), shift_bias(film);
    Results<T> weight(horizon * d), bias(horizon);
    poco::FilmShift<T> p;
    p.horizon = horizon;
    p.film_width = film;
    p.width = d;
    p.threads = threads;
    p.output_weight = output.data();
    p.output_bias = output_bias.data();
    p.shift_weight = shift.data();
    p.shift_bias = shift_bias.data();
    p.weight = weight.stored.data();
    p.bias = bias.stored.data();
    kernels.film_shift(p);
    Numbers folded;
    Numbers folded_bias = times(output.values, 0, horizon, shift_bias.values);
    add(folded_bias, output_bias.values);
    for (int64_t h = 0; h < horizon; ++h) {
        for (const double one : transposed_times(shift.values, d, part(output.values, h * film, film))) {
            folded.push_back(one);
        }
    }
    weight.check(folded, tolerance, "film_shift: weight");
    bias.check(folded_bias, tolerance, "film_shift: bias");
}

template <typename T>
void test_all(double tolerance, const poco::Passes<T>& kernels) {
    test_latents<T>({1, 1, 3, 8, 128, 64, 4, 96, 48, 2}, tolerance, kernels);
    test_latents<T>({3, 3, 2, 3, 33, 4, 3, 7, 10, 1}, tolerance, kernels);
    test_latents<T>({0, 1, 1, 2, 5, 8, 1, 3, 4, 3}, tolerance, kernels);
    test_latents<T>({40, 1, 2, 5, 17, 12, 2, 40, 12, 3}, tolerance, kernels);
    test_training<T>({3, 1, 3, 8, 32, 16, 2, 40, 48, 2}, tolerance, kernels);
    test_training<T>({5, 5, 2, 3, 33, 4, 3, 130, 10, 1}, tolerance, kernels);
    test_training<T>({0, 1, 1, 2, 5, 8, 1, 3, 4, 3}, tolerance, kernels);
    test_training<T>({23, 1, 2, 5, 17, 12, 2, 7, 12, 3}, tolerance, kernels);
    test_shift<T>(16, 130, 128, 2, tolerance, kernels);
    test_shift<T>(5, 67, 33, 3, tolerance, kernels);
    test_shift<T>(1, 1, 1, 1, tolerance, kernels);
}

}  // namespace

int main(int argc, char** argv) {
    if (const poco::Passes<Bfloat16>* emulated = emulated_kernels(argc > 1 ? argv[1] : "")) {
        unsetenv("POCO_CPU");  // which names what cannot run here
        test_all<Bfloat16>(2e-2, *emulated);
        std::printf("%s is emulated: %s\n", argv[1], failures == 0 ? "all passed" : "some failed");
        return failures == 0 ? 0 : 1;
    }
    return test_kernels(argc, argv, [] {
        test_all<float>(1e-5, poco::cpu_kernels().float32);
        test_all<Bfloat16>(2e-2, poco::cpu_kernels().bfloat16);
    });
}
