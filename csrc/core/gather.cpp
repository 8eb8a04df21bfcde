#include "core/gather.h"

#include <limits>
#include <vector>

#include "core/errors.h"

namespace poco {
namespace {

constexpr int64_t kMostIndices = std::numeric_limits<int32_t>::max();

void normalise(const float* from, int64_t count, float mean, float inverse_std, float* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = (from[i] - mean) * inverse_std;
}

}  // namespace

int64_t count_rows(const SessionView* sessions, int64_t session_count, const WindowsView& windows) {
    constexpr int64_t most_frames = int64_t{1} << 40;  // keeps the sums below far from overflow
    if (windows.context < 1 || windows.horizon < 0 || windows.context > most_frames || windows.horizon > most_frames) {
        fail("windows: context must be 1 or more and horizon 0 or more, got context ", windows.context, " and horizon ",
             windows.horizon);
    }
    int64_t units = 0;
    for (int64_t s = 0; s < session_count; ++s) {
        units += sessions[s].units;
        if (units > kMostIndices) fail("windows: more than 2^31 - 1 units in all sessions together");
    }
    const int64_t length = windows.context + windows.horizon;
    int64_t rows = 0;
    for (int64_t w = 0; w < windows.count; ++w) {
        const int64_t s = windows.session[w];
        if (s < 0 || s >= session_count) {
            fail("window ", w, ": session ", s, " is not one of the ", session_count, " sessions given");
        }
        const int64_t start = windows.start[w];
        const int64_t frames = sessions[s].frames;
        if (start < 0 || length > frames || start > frames - length) {
            fail("window ", w, ": ", length, " frames from frame ", start, " do not lie within the ", frames,
                 " frames of session ", s);
        }
        rows += sessions[s].units;
        if (rows > kMostIndices) fail("windows: more than 2^31 - 1 rows in one batch; take fewer windows at once");
    }
    return rows;
}

void gather_windows(const SessionView* sessions, int64_t session_count, const WindowsView& windows, float* x,
                    float* target, int32_t* unit_index, int32_t* window_offsets) {
    count_rows(sessions, session_count, windows);
    std::vector<int64_t> first_unit(static_cast<size_t>(session_count) + 1, 0);
    for (int64_t s = 0; s < session_count; ++s) first_unit[s + 1] = first_unit[s] + sessions[s].units;

    const int64_t context = windows.context;
    const int64_t horizon = windows.horizon;
    int64_t row = 0;
    window_offsets[0] = 0;
    for (int64_t w = 0; w < windows.count; ++w) {
        const int64_t s = windows.session[w];
        const SessionView& session = sessions[s];
        for (int64_t unit = 0; unit < session.units; ++unit, ++row) {
            const float* from = session.activity + unit * session.frames + windows.start[w];
            normalise(from, context, session.mean[unit], session.inverse_std[unit], x + row * context);
            normalise(from + context, horizon, session.mean[unit], session.inverse_std[unit], target + row * horizon);
            unit_index[row] = static_cast<int32_t>(first_unit[s] + unit);
        }
        window_offsets[w + 1] = static_cast<int32_t>(row);
    }
}

}  // namespace poco
