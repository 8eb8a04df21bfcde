// Packed windows: the rows of windows of different sessions one after another, normalised on the way.
#pragma once

#include <cstdint>

namespace poco {

// One session, owned by the caller. Output values are (activity - mean) * inverse_std.
struct SessionView {
    const float* activity;     // [units, frames], frames next to each other
    const float* mean;         // [units]
    const float* inverse_std;  // [units]
    int64_t units;
    int64_t frames;
};

// Which windows to gather: window w covers frames start[w], ..., start[w] + context + horizon - 1 of session[w].
struct WindowsView {
    const int64_t* session;  // [count]
    const int64_t* start;    // [count]
    int64_t count;
    int64_t context;
    int64_t horizon;  // may be 0
};

// Checks every window against its session and returns the number of rows R, the sum of their units.
// Throws Error if a window does not lie within its session, or if rows or units do not fit into 32-bit indices.
int64_t count_rows(const SessionView* sessions, int64_t session_count, const WindowsView& windows);

// Fills x [R, context], target [R, horizon], unit_index [R] and window_offsets [count + 1].
// unit_index counts the units of all sessions, session after session. Checks as count_rows does before any write.
// Thread-safe as long as the outputs are the caller's own.
void gather_windows(const SessionView* sessions, int64_t session_count, const WindowsView& windows, float* x,
                    float* target, int32_t* unit_index, int32_t* window_offsets);

}  // namespace poco
