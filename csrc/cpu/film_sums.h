// Sums over the rows of a chunk in the backward of pass 2: gradients of the parameters, of the keys and of the values.
#pragma once

#include "cpu/film_forecast.h"

namespace poco {
namespace {

// Gradients of the parameters over the rows of one chunk; rows have room for whole vectors. Two of them are transposed,
// so that vectors run along the narrow side.
struct FilmSums {
    bool empty = true;                // nothing has been added: the memory holds anything
    int64_t width, context, horizon;  // rounded up
    float *attention_bias, *query_norm_weight, *query_norm_bias, *ffn_norm_weight, *ffn_norm_bias;
    float *ffn_in_weight, *ffn_in_bias, *ffn_out_weight_t, *ffn_out_bias;
    float *scale_weight, *scale_bias, *shift_weight, *shift_bias, *in_weight, *in_bias, *out_weight_t;

    template <typename T>
    FilmSums(const FilmForecast<T>& call, Pieces& pieces)
        : width(round_up(call.width)), context(round_up(call.context)), horizon(round_up(call.horizon)) {
        float** const vectors[] = {&attention_bias,  &query_norm_weight, &query_norm_bias,
                                   &ffn_norm_weight, &ffn_norm_bias,     &ffn_out_bias};
        for (float** vector : vectors) {
            *vector = pieces.floats(width);
        }
        ffn_in_weight = pieces.floats(2 * call.ffn_width * width);
        ffn_in_bias = pieces.floats(2 * call.ffn_width);
        ffn_out_weight_t = pieces.floats(call.ffn_width * width);
        scale_weight = pieces.floats(call.film_width * width);
        scale_bias = pieces.floats(call.film_width);
        shift_weight = pieces.floats(call.horizon * width);
        shift_bias = pieces.floats(call.horizon);
        in_weight = pieces.floats(call.film_width * context);
        in_bias = pieces.floats(call.film_width);
        out_weight_t = pieces.floats(call.film_width * horizon);
    }

    // onto[i][j] += sum over the tile's rows of plane[i][row] * lines[row][j].
    void add_products(int64_t features, int64_t rows, const OperandPlane& plane, const Lines& lines,
                      float* onto) const {
        const int64_t columns = lines.columns;
        if (empty) {
            multiply<Onto::zero>(features, rows, columns, plane.over_rows(), lines.words, lines.apart, onto, columns);
        } else {
            multiply<Onto::c>(features, rows, columns, plane.over_rows(), lines.words, lines.apart, onto, columns);
        }
    }

    // onto[i] += sum over lanes of plane[i].
    void add(int64_t features, int64_t lanes, const OperandPlane& plane, float* onto) const {
        sum_rows(features, lanes, plane, [=](int64_t i, float sum) { onto[i] = sum + (empty ? 0.0f : onto[i]); });
    }

    // The same for plane[i] times other[i], or plane[i] alone.
    void add(int64_t features, int64_t lanes, const float* plane, float* onto, const float* other = nullptr) const {
        for (int64_t i = 0; i < features; ++i) {
            const float sum = sum_lanes(lanes, plane + i * kTile, other == nullptr ? nullptr : other + i * kTile);
            onto[i] = sum + (empty ? 0.0f : onto[i]);
        }
    }
};

// Gradients of the keys and values of the window that a chunk is at. The chunk in which a window begins writes them to
// the output; of a window that began before it, a chunk keeps them as its head, to be added later.
template <typename T>
class WindowSums {
public:
    int64_t head_window = -1;

    WindowSums(const FilmForecastBackward<T>& back, Pieces& pieces)
        : back_(back), width_(round_up(back.forward.width)), room_(back.forward.latents * width_) {
        sums_ = pieces.floats(2 * room_);
        head_ = pieces.floats(2 * back.forward.latents * back.forward.width);
        line_ = pieces.array<Word>(width_);
    }

    void begin(int64_t first_row) { first_row_ = first_row; }

    // Adds rows of one window: score and weight planes times query and state lines. `operand` is room for a plane.
    void add(const Run& run, const float* grad_scores, const Lines& queries, const float* weights,
             const Lines& grad_states, const OperandPlane& operand) {
        if (run.window != window_) end();
        const int64_t latents = back_.forward.latents;
        const auto one = [&](const float* plane, const Lines& lines, float* onto) {
            if (run.window != window_) {
                multiply_some_rows<Onto::zero>(latents, run.first, run.last, plane, operand, lines, line_, onto);
            } else {
                multiply_some_rows<Onto::c>(latents, run.first, run.last, plane, operand, lines, line_, onto);
            }
        };
        one(grad_scores, queries, sums_);
        one(weights, grad_states, sums_ + room_);
        window_ = run.window;
    }

    // No more rows of the present window in this chunk.
    void end() {
        if (window_ < 0) return;
        const FilmForecast<T>& call = back_.forward;
        const int64_t size = call.latents * call.width;
        float* keys = back_.grad_keys == nullptr ? nullptr : back_.grad_keys + window_ * size;
        float* values = back_.grad_values == nullptr ? nullptr : back_.grad_values + window_ * size;
        if (call.window_offsets[window_] < first_row_) {
            head_window = window_;
            keys = head_;
            values = head_ + size;
        }
        for (int64_t q = 0; q < call.latents; ++q) {
            const size_t bytes = static_cast<size_t>(call.width) * sizeof(float);
            if (keys != nullptr) std::memcpy(keys + q * call.width, sums_ + q * width_, bytes);
            if (values != nullptr) std::memcpy(values + q * call.width, sums_ + room_ + q * width_, bytes);
        }
        window_ = -1;
    }

    // Adds the head to the outputs: chunk after chunk.
    void add_head() const {
        if (head_window < 0) return;
        const int64_t size = back_.forward.latents * back_.forward.width;
        for (int64_t i = 0; i < size; ++i) {
            if (back_.grad_keys != nullptr) back_.grad_keys[head_window * size + i] += head_[i];
            if (back_.grad_values != nullptr) back_.grad_values[head_window * size + i] += head_[size + i];
        }
    }

private:
    const FilmForecastBackward<T>& back_;
    int64_t width_, room_;
    int64_t window_ = -1, first_row_ = 0;
    float *sums_, *head_;
    Word* line_;
};

template <typename T>
inline void copy_sums(const FilmForecast<T>& call, const FilmSums& sums, const FilmParameters<float>& g) {
    const int64_t d = call.width, hidden = call.ffn_width, film = call.film_width, horizon = call.horizon;
    copy_lines(1, d, sums.attention_bias, d, g.attention_bias);
    copy_lines(1, d, sums.query_norm_weight, d, g.query_norm_weight);
    copy_lines(1, d, sums.query_norm_bias, d, g.query_norm_bias);
    copy_lines(1, d, sums.ffn_norm_weight, d, g.ffn_norm_weight);
    copy_lines(1, d, sums.ffn_norm_bias, d, g.ffn_norm_bias);
    copy_lines(2 * hidden, d, sums.ffn_in_weight, sums.width, g.ffn_in_weight);
    copy_lines(1, 2 * hidden, sums.ffn_in_bias, 2 * hidden, g.ffn_in_bias);
    if (g.ffn_out_weight != nullptr) transpose(hidden, d, sums.ffn_out_weight_t, sums.width, g.ffn_out_weight, hidden);
    copy_lines(1, d, sums.ffn_out_bias, d, g.ffn_out_bias);
    copy_lines(film, d, sums.scale_weight, sums.width, g.scale_weight);
    copy_lines(1, film, sums.scale_bias, film, g.scale_bias);
    copy_lines(horizon, d, sums.shift_weight, sums.width, g.shift_weight);
    copy_lines(1, horizon, sums.shift_bias, horizon, g.shift_bias);
    copy_lines(film, call.context, sums.in_weight, sums.context, g.in_weight);
    copy_lines(1, film, sums.in_bias, film, g.in_bias);
    if (g.out_weight != nullptr) transpose(film, horizon, sums.out_weight_t, sums.horizon, g.out_weight, film);
}

}  // namespace
}  // namespace poco
