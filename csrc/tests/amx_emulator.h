// The tile instructions of AMX on a processor without them: each traps (SIGILL), is carried out in plain C++ on tile
// registers of the thread, and stepped over. So the kernels that run on processors with AMX are tested as they are,
// slowly. Linux on x86-64 only.
#pragma once

namespace poco_test {

// Catches the tile instructions from now on; any other illegal instruction ends the process as before. Not for
// processors that have AMX. False where this system cannot.
bool emulate_amx();

// How many tdpbf16ps have been emulated, by all threads.
long emulated_products();

}  // namespace poco_test
