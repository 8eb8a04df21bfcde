// What the kernels are called with for the inference of a model, one after another.
#pragma once

#include <vector>

#include "core/memory.h"
#include "cpu/inference.h"
#include "cpu/parameters.h"

namespace poco {

// The calls in their order, and the memory in which one leaves something for the next. `asking` and `shift` depend on
// no activity, so they are made once where many windows follow.
template <typename T>
class InferenceCalls {
public:
    LatentQueries<T> asking;
    FilmShift<T> shift;
    LatentPool<T> pool;
    LatentTransformer<T> between;
    FilmForecast<T> film;

    explicit InferenceCalls(const Inference<T>& call)
        : queries_(size(call.initial_windows * call.segments * call.latents * call.width)),
          keys_(size(call.windows * call.latents * call.width)),
          values_(keys_.size()),
          shift_weight_(size(call.horizon * call.width)),
          shift_bias_(size(call.horizon)),
          pooled_(keys_.size() * size(call.segments)),
          logsumexp_(size(call.windows * call.latents)) {
        take_sizes(call, asking);
        asking.windows = call.initial_windows;
        asking.queries = queries_.data();

        shift.horizon = call.horizon;
        shift.film_width = call.film_width;
        shift.width = call.width;
        shift.threads = call.threads;
        shift.weight = shift_weight_.data();
        shift.bias = shift_bias_.data();

        take_rows(call, pool);
        pool.segments = call.segments;
        pool.segment_length = call.segment_length;
        pool.query_windows = call.initial_windows;
        pool.queries = queries_.data();
        pool.pooled = pooled_.data();
        pool.logsumexp = logsumexp_.data();

        take_sizes(call, between);
        between.windows = call.windows;
        between.initial_windows = call.initial_windows;
        between.heads = call.heads;
        between.ffn_width = call.ffn_width;
        between.layers = call.layers;
        between.pooled = pooled_.data();
        between.keys = keys_.data();
        between.values = values_.data();

        take_rows(call, film);
        film.context = asking.context;
        film.horizon = call.horizon;
        film.ffn_width = call.ffn_width;
        film.film_width = call.film_width;
        film.unit_shift = call.unit_shift;
        film.keys = keys_.data();
        film.values = values_.data();
        film.forecast = call.forecast;

        Parameters<T> parameters(call.parameters.data());
        parameters.into(pool);
        parameters.into(asking);
        parameters.into(between, layers_);
        parameters.into(film, shift);
    }
    InferenceCalls(const InferenceCalls&) = delete;

private:
    static size_t size(int64_t count) { return static_cast<size_t>(count); }

    // What is before and between the passes knows of times.
    template <typename Call>
    static void take_sizes(const Inference<T>& from, Call& to) {
        to.segments = from.segments;
        to.latents = from.latents;
        to.width = from.width;
        to.head_width = from.head_width;
        to.context = from.segments * from.segment_length;
        to.eps = from.eps;
        to.threads = from.threads;
        to.frequencies = from.frequencies;
        to.initial = from.initial;
    }

    // The passes know of units.
    template <typename Call>
    static void take_rows(const Inference<T>& from, Call& to) {
        to.rows = from.rows;
        to.windows = from.windows;
        to.units = from.units;
        to.latents = from.latents;
        to.width = from.width;
        to.eps = from.eps;
        to.threads = from.threads;
        to.x = from.x;
        to.unit_index = from.unit_index;
        to.window_offsets = from.window_offsets;
        to.unit_table = from.unit_table;
    }

    Buffer<T> queries_, keys_, values_, shift_weight_, shift_bias_;
    Floats pooled_, logsumexp_;
    std::vector<LatentLayer<T>> layers_;
};

}  // namespace poco
