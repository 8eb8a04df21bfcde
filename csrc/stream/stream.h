// The streaming engine: a frame in, a forecast out.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "core/memory.h"
#include "stream/model.h"

namespace poco {

// What to do with units whose value in a frame is NaN, infinite, or a million deviations from their mean.
enum class Missing {
    hold,  // their last value stands in; their forecasts are made, and marked as invalid
    drop,  // they are also left out of what the population tells, and their forecasts are NaN
};

// What to do where frames are missing between two time stamps.
enum class Gap {
    fill,     // the last frame stands in for them, if they are fewer than the context; otherwise restart
    restart,  // the context is collected anew
    refuse,   // the frame is an error
};

struct StreamOptions {
    Arithmetic arithmetic;
    Missing missing = Missing::hold;
    Gap gap = Gap::fill;
    double interval = 0;     // seconds from frame to frame; 0: by the session's rate, without which no gap is seen
    double tolerance = 0.5;  // a gap begins where an interval is longer by more than this share, and by half at least
    double deadline_ms = 0;  // 0: none
};

enum class Outcome { forecast, warming };

constexpr uint32_t kHeld = 1, kFilled = 2, kRestarted = 4, kLate = 8, kOverflowed = 16, kRate = 32;
constexpr uint32_t kScale = 128;  // 64 is of the wires

// Points into the stream until the next call.
struct StreamForecast {
    Outcome outcome = Outcome::warming;
    uint32_t flags = 0;
    int64_t frame = 0;  // counted from 0, missing ones that were filled included
    double time = 0;    // as it was given
    double latency_ms = 0;
    int64_t missing = 0;            // frames until the first forecast
    const float* values = nullptr;  // [N, H] in the recording's own units; nullptr while warming
    // [N], 1 where the unit was in the last C frames that came, all since the last restart, and its forecast is finite.
    const uint8_t* valid = nullptr;
};

// Latencies in classes an eighth of an octave wide: enough to tell quantiles to 9%.
class Latencies {
public:
    void add(double ms);
    double quantile(double share) const;
    int64_t count() const { return count_; }
    double longest() const { return longest_; }

private:
    static constexpr int kPerOctave = 8, kOctaves = 32;
    std::array<int64_t, kPerOctave * kOctaves> counts_{};
    int64_t count_ = 0;
    double longest_ = 0;
};

struct StreamStats {
    int64_t frames = 0, forecasts = 0, late = 0, gaps = 0, filled = 0, restarts = 0, held_values = 0, refused = 0;
    int64_t off_rate = 0;   // forecasts marked with kRate
    int64_t off_scale = 0;  // and with kScale
    Latencies latencies;    // of forecasts
};

// Not to be used by two threads at once; streams of one model may.
class Stream {
public:
    // Throws Error if the session is not known or an option is out of range. Makes a forecast, so that what comes later
    // finds all memory and threads in place.
    Stream(std::shared_ptr<const Model> model, int64_t session, const StreamOptions& options);

    // Takes a frame of `length` units in the recording's own units, at `time` seconds (NaN: not known; it then counts
    // as one interval after the frame before it). Throws Error, and leaves everything as it was, if the length or the
    // time cannot be.
    StreamForecast push(const float* frame, int64_t length, double time);

    // Forgets all frames.
    void reset();

    // Goes on with another model, which knows the session by its name with the same units in their order, and has the
    // same context and horizon. Throws Error, and leaves everything as it was, if not. Values that are out of range by
    // its normalisation are missing.
    void swap(std::shared_ptr<const Model> model);

    // Whether a unit had a value in the last frame that counts.
    bool seen(int64_t unit) const { return unseen_[static_cast<size_t>(unit)] > 0; }

    int64_t units() const { return units_; }
    int64_t horizon() const { return model_->horizon(); }
    const StreamStats& stats() const { return stats_; }

private:
    const Session& session() const { return model_->sessions()[static_cast<size_t>(session_)]; }
    int64_t gap_before(double time) const;
    void restart();
    void take_interval();
    bool off_rate() const;
    bool off_scale() const;
    void shift_in(const float* frame, double time);
    void normalise_anew(const Session& before, const Session& now);

    std::shared_ptr<const Model> model_;
    int64_t session_, units_, context_;
    StreamOptions options_;
    std::unique_ptr<Forecaster> forecaster_;
    Floats x_;                // [N, C] normalised
    Buffer<int32_t> unseen_;  // [N] frames that came since the unit was last missing or the restart, at most C
    Buffer<int32_t> known_;   // [N] frames since the first that a unit was in, after the restart, at most C
    Buffer<uint8_t> valid_;
    Buffer<uint8_t> there_;  // [N] of the units that tell the population something
    Buffer<double> times_;   // [C] of frame i at i % C; NaN: not known
    Floats values_;
    int64_t collected_ = 0;     // frames of the context that are there
    int32_t came_ = 0;          // frames that came since the restart, at most C: collected_ without those filled in
    int64_t since_filled_ = 0;  // frames since one was filled in, at most C
    double last_time_ = 0, interval_ = 0;
    bool has_time_ = false;
    int64_t untimed_ = 0;  // frames without a time since the last one with one
    StreamStats stats_;
};

}  // namespace poco
