#include "stream/stream.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <locale>
#include <sstream>
#include <string>

#include "core/errors.h"
#include "core/log.h"
#include "core/thread_pool.h"

namespace poco {

namespace {
// Deviations from the mean. Squares of larger ones, and sums of them, would soon be beyond float32; no activity is.
constexpr float kLargest = 1e6f;

// A context whose frames took this share of the time that they should have taken is of another rate.
constexpr double kFast = 0.75, kSlow = 1.33;

// A context is on another scale where most units lie so many deviations from their mean all along.
constexpr float kFar = 5.0f;

// Eight sums side by side, which the compiler makes vectors of.
float sum_of(const float* values, int64_t count) {
    std::array<float, 8> sums{};
    const int64_t whole = count - count % 8;
    for (int64_t i = 0; i < whole; i += 8)
        for (size_t k = 0; k < 8; ++k) sums[k] += values[i + static_cast<int64_t>(k)];
    for (int64_t i = whole; i < count; ++i) sums[static_cast<size_t>(i - whole)] += values[i];
    float total = 0;
    for (const float sum : sums) total += sum;
    return total;
}

// Says what a stream is made of.
void log_session(const char* what, const Model& model, const Session& session, const Arithmetic& arithmetic) {
    if (!logs(kLogSetup)) return;
    log_line(kLogSetup, "%s session '%s': %lld units, %lld frames to forecast %lld, %s, threads: %d%s%s", what,
             session.name.c_str(), static_cast<long long>(session.units), static_cast<long long>(model.context()),
             static_cast<long long>(model.horizon()), arithmetic.bfloat16 ? "bfloat16" : "float32", arithmetic.threads,
             arithmetic.gpu >= 0 ? ", on a GPU" : "",
             session.normalised ? "" : "; how it was normalised is not known: frames are taken for normalised already");
}

// A time to the microsecond, without zeros at its end: clocks that count from 1970 have ten digits before the point.
std::string seconds(double time) {
    std::ostringstream text;
    text.imbue(std::locale::classic());
    if (std::abs(time) < 1e15) text << std::fixed;
    text.precision(6);
    text << time;
    std::string digits = text.str();
    if (digits.find('e') != std::string::npos || digits.find('.') == std::string::npos) return digits;
    digits.erase(digits.find_last_not_of('0') + 1);
    if (digits.back() == '.') digits.pop_back();
    return digits;
}
}  // namespace

void Latencies::add(double ms) {
    const double microseconds = std::max(1.0, 1e3 * ms);
    const int place = static_cast<int>(std::log2(microseconds) * kPerOctave);
    ++counts_[static_cast<size_t>(std::min(place, kPerOctave * kOctaves - 1))];
    ++count_;
    longest_ = std::max(longest_, ms);
}

double Latencies::quantile(double share) const {
    const int64_t wanted = static_cast<int64_t>(std::ceil(share * static_cast<double>(count_)));
    int64_t passed = 0;
    for (size_t place = 0; place < counts_.size(); ++place) {
        passed += counts_[place];
        if (passed >= wanted && passed > 0) {
            return std::min(longest_, 1e-3 * std::exp2(static_cast<double>(place + 1) / kPerOctave));
        }
    }
    return 0;
}

Stream::Stream(std::shared_ptr<const Model> model, int64_t session, const StreamOptions& options)
    : model_(std::move(model)), session_(session), options_(options) {
    const auto count = static_cast<int64_t>(model_->sessions().size());
    if (session < 0 || session >= count) fail("there is no session ", session, "; the model knows ", count);
    if (!(options.interval >= 0) || std::isinf(options.interval))
        fail("the interval between frames must be finite and not negative, and is ", options.interval, " s");
    if (!(options.tolerance > 0)) fail("the tolerance of intervals must be positive, and is ", options.tolerance);
    if (!(options.deadline_ms >= 0)) fail("the deadline must not be negative, and is ", options.deadline_ms, " ms");
    if (options.arithmetic.threads < 1) fail("there must be at least one thread");
    if (options.arithmetic.threads > kMostThreads) fail("there can be no more than ", kMostThreads, " threads");
    units_ = this->session().units;
    context_ = model_->context();
    const auto units = static_cast<size_t>(units_);
    x_.resize(units * static_cast<size_t>(context_));
    unseen_.resize(units);
    known_.resize(units);
    valid_.resize(units);
    there_.assign(units, 1);
    times_.resize(static_cast<size_t>(context_));
    values_.resize(units * static_cast<size_t>(model_->horizon()));
    reset();
    forecaster_ = model_->forecaster(session_, options_.arithmetic);
    forecaster_->forecast(x_.data(), there_.data(), values_.data());
    log_session("a stream of", *model_, this->session(), options_.arithmetic);
}

void Stream::restart() {
    std::fill(x_.begin(), x_.end(), 0.0f);
    std::fill(unseen_.begin(), unseen_.end(), 0);
    std::fill(known_.begin(), known_.end(), 0);
    std::fill(times_.begin(), times_.end(), std::numeric_limits<double>::quiet_NaN());
    collected_ = 0;
    came_ = 0;
    since_filled_ = context_;
}

void Stream::reset() {
    restart();
    has_time_ = false;
    untimed_ = 0;
    take_interval();
}

void Stream::take_interval() {
    const double rate = session().rate_hz;
    interval_ = options_.interval > 0 ? options_.interval : rate > 0 ? 1 / rate : 0;
}

// How many frames are missing before one at this time.
int64_t Stream::gap_before(double time) const {
    if (std::isnan(time) || !has_time_) return 0;
    const double passed = time - last_time_;
    if (!(passed > 0)) {
        fail("frame at ", seconds(time), " s does not come after the one at ", seconds(last_time_), " s (difference ",
             passed, " s): time stamps must rise");
    }
    const auto since = static_cast<double>(untimed_ + 1);  // this frame and those without a time before it
    if (!(interval_ > 0) || passed <= interval_ * (since + options_.tolerance)) return 0;
    const double missing = std::round(passed / interval_) - since;
    if (missing < 1) return 0;  // it is late, and no frame is missing
    return missing > static_cast<double>(context_) ? context_ : static_cast<int64_t>(missing);
}

// Whether the frames of a full context took another time than so many take at the usual rate. Half an interval is
// jitter, however few frames have a time.
bool Stream::off_rate() const {
    if (!(interval_ > 0)) return false;
    const auto time_of = [this](int64_t frame) { return times_[static_cast<size_t>(frame % context_)]; };
    int64_t first = stats_.frames - context_, last = stats_.frames - 1;
    while (first < last && std::isnan(time_of(first))) ++first;
    while (first < last && std::isnan(time_of(last))) --last;
    if (first == last) return false;
    const double usual = interval_ * static_cast<double>(last - first), taken = time_of(last) - time_of(first);
    if (std::abs(taken - usual) <= 0.5 * interval_) return false;
    return taken < kFast * usual || taken > kSlow * usual;
}

// Whether more than half of the units that are in a full context lie far from their means in all of it.
bool Stream::off_scale() const {
    if (!session().normalised) return false;
    int64_t there = 0, far = 0;
    for (int64_t u = 0; u < units_; ++u) {
        if (valid_[static_cast<size_t>(u)] == 0) continue;
        const float* const line = x_.data() + u * context_;
        ++there;
        far += std::abs(sum_of(line, context_)) > kFar * static_cast<float>(context_);
    }
    return 2 * far > there;
}

// One more frame, normalised; nullptr: the last one again.
void Stream::shift_in(const float* frame, double time) {
    const Session& own = session();
    const auto later = static_cast<size_t>(context_ - 1) * sizeof(float);
    const auto most = static_cast<int32_t>(context_);
    for (int64_t u = 0; u < units_; ++u) {
        const auto i = static_cast<size_t>(u);
        float* const line = x_.data() + u * context_;
        const float last = line[context_ - 1];
        std::memmove(line, line + 1, later);
        line[context_ - 1] = last;
        if (known_[i] > 0) known_[i] = std::min(known_[i] + 1, most);
        if (frame == nullptr) continue;  // of no unit is anything known that was not before
        const float value = (frame[u] - own.mean[i]) / own.std[i];
        const bool seen = std::abs(value) <= kLargest;  // NaN is not
        if (seen) line[context_ - 1] = value;
        if (seen && known_[i] == 0) known_[i] = 1;
        unseen_[i] = seen ? std::min(unseen_[i] + 1, most) : 0;
        stats_.held_values += !seen;
    }
    times_[static_cast<size_t>(stats_.frames % context_)] = time;
    collected_ = std::min(collected_ + 1, context_);
    if (frame != nullptr) came_ = std::min(came_ + 1, most);
    since_filled_ = frame == nullptr ? 0 : std::min(since_filled_ + 1, context_);
    ++stats_.frames;
}

StreamForecast Stream::push(const float* frame, int64_t length, double time) {
    const auto began = std::chrono::steady_clock::now();
    StreamForecast result;
    int64_t missing = 0;
    try {
        if (length != units_) {
            fail("the frame has ", length, " units and session '", session().name, "' has ", units_);
        }
        if (std::isinf(time)) fail("the time of a frame must be finite, or NaN where it is not known");
        missing = gap_before(time);
        if (missing > 0 && options_.gap == Gap::refuse) {
            fail<GapError>("frames are missing between ", seconds(last_time_), " s and ", seconds(time),
                           " s (difference ", time - last_time_, " s): reset the stream to go on");
        }
    } catch (...) {
        ++stats_.refused;
        throw;
    }
    if (missing > 0) {
        ++stats_.gaps;
        if (options_.gap == Gap::fill && missing < context_ && collected_ > 0) {
            for (int64_t i = 0; i < missing; ++i) shift_in(nullptr, std::numeric_limits<double>::quiet_NaN());
            stats_.filled += missing;
            log_line(kLogFrames, "frame %lld: %lld frames are missing before it, the last one stands in for them",
                     static_cast<long long>(stats_.frames), static_cast<long long>(missing));
        } else {
            log_line(kLogFrames, "frame %lld: %lld frames%s are missing before it, the context begins anew",
                     static_cast<long long>(stats_.frames), static_cast<long long>(missing),
                     missing < context_ ? "" : " or more");
            restart();
            ++stats_.restarts;
            result.flags |= kRestarted;
        }
    }
    if (std::isnan(time)) {
        ++untimed_;
    } else {
        last_time_ = time;
        has_time_ = true;
        untimed_ = 0;
    }
    shift_in(frame, time);
    result.frame = stats_.frames - 1;
    result.time = time;
    result.missing = context_ - collected_;
    result.valid = valid_.data();
    const bool drop = options_.missing == Missing::drop;
    bool held = false;
    for (size_t i = 0; i < valid_.size(); ++i) {
        const bool missed = unseen_[i] < came_;
        valid_[i] = unseen_[i] >= context_;
        there_[i] = !(drop && missed);
        held = held || missed;
    }
    if (held) result.flags |= kHeld;
    if (since_filled_ < context_) result.flags |= kFilled;
    if (collected_ < context_) return result;

    forecaster_->forecast(x_.data(), there_.data(), values_.data());
    if (off_rate()) {
        result.flags |= kRate;
        ++stats_.off_rate;
    }
    if (off_scale()) {
        result.flags |= kScale;
        ++stats_.off_scale;
    }
    const Session& own = session();
    const int64_t steps = model_->horizon();
    for (int64_t u = 0; u < units_; ++u) {
        const auto i = static_cast<size_t>(u);
        const bool nothing = there_[i] == 0;
        bool finite = true;
        for (int64_t h = 0; h < steps; ++h) {
            float& value = values_[static_cast<size_t>(u * steps + h)];
            value = nothing ? std::numeric_limits<float>::quiet_NaN() : value * own.std[i] + own.mean[i];
            finite = finite && std::isfinite(value);
        }
        if (finite || nothing) continue;
        valid_[i] = 0;
        result.flags |= kOverflowed;
    }
    result.outcome = Outcome::forecast;
    result.values = values_.data();
    result.latency_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
    stats_.latencies.add(result.latency_ms);
    ++stats_.forecasts;
    if (options_.deadline_ms > 0 && result.latency_ms > options_.deadline_ms) {
        result.flags |= kLate;
        ++stats_.late;
        log_line(kLogFrames, "frame %lld: its forecast took %.3f ms and the deadline is %.3f ms",
                 static_cast<long long>(result.frame), result.latency_ms, options_.deadline_ms);
    }
    return result;
}

// The context by another normalisation. What is out of range by that is missing, as in a frame. Before a unit was in
// any its mean stands in, 0 by either.
void Stream::normalise_anew(const Session& before, const Session& now) {
    for (int64_t u = 0; u < units_; ++u) {
        const auto i = static_cast<size_t>(u);
        if (before.mean[i] == now.mean[i] && before.std[i] == now.std[i]) continue;
        float last = 0;
        for (int64_t t = context_ - known_[i]; t < context_; ++t) {
            float& value = x_[static_cast<size_t>(u * context_ + t)];
            value = (value * before.std[i] + before.mean[i] - now.mean[i]) / now.std[i];
            if (std::abs(value) <= kLargest) {
                last = value;
                continue;
            }
            value = last;
            unseen_[i] = 0;
            ++stats_.held_values;
        }
    }
}

void Stream::swap(std::shared_ptr<const Model> model) {
    const Session& before = session();
    const auto& sessions = model->sessions();
    const auto found =
        std::find_if(sessions.begin(), sessions.end(), [&](const Session& s) { return s.name == before.name; });
    if (found == sessions.end()) fail("the new model does not know session '", before.name, "'");
    if (found->units != units_) {
        fail("session '", before.name, "' has ", units_, " units, and ", found->units, " in the new model");
    }
    if (found->units_hash != before.units_hash) {
        fail("session '", before.name, "' has other units in the new model, or the same in another order");
    }
    if (model->context() != context_ || model->horizon() != model_->horizon()) {
        fail("the new model takes ", model->context(), " frames to forecast ", model->horizon(), ", the old one ",
             context_, " to forecast ", model_->horizon());
    }
    const int64_t place = found - sessions.begin();
    std::unique_ptr<Forecaster> forecaster = model->forecaster(place, options_.arithmetic);
    std::fill(there_.begin(), there_.end(), 1);
    forecaster->forecast(x_.data(), there_.data(), values_.data());
    normalise_anew(before, *found);
    forecaster_ = std::move(forecaster);
    model_ = std::move(model);
    session_ = place;
    take_interval();
    log_session("another model for", *model_, session(), options_.arithmetic);
}

}  // namespace poco
