// The fuzz target without a fuzzer:
//     poco_fuzz_replay RUNS [FIRST]    damaged models number FIRST (0), FIRST + 1, ...
//     poco_fuzz_replay FILE...         what a fuzzer or a --seeds run wrote
//     poco_fuzz_replay --seeds FOLDER  writes whole models into a folder, for a fuzzer to begin with
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/memory.h"
#include "model_files.h"
#include "mutations.h"
#include "stream/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern int64_t refused_models;

#if defined(__GNUC__)
extern "C" void __sanitizer_set_death_callback(void (*)()) __attribute__((weak));
#endif

namespace {

uint64_t number = 0;  // of the damaged model that is being read

void say_number() {
    std::fprintf(stderr, "this was damaged model %llu: poco_fuzz_replay 1 %llu\n",
                 static_cast<unsigned long long>(number), static_cast<unsigned long long>(number));
}

void on_signal(int signal) {
    say_number();
    std::signal(signal, SIG_DFL);
    std::raise(signal);
}

std::string input_of(const ModelFiles& files) {
    return little_endian(files.config.size()).substr(0, 4) + files.config + files.tensors;
}

void run(const std::string& input) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

void replay(const char* path) {
    const poco::Buffer<uint8_t> bytes = poco::read_file(path, 1u << 30);
    const int64_t before = refused_models;
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    std::printf("%s: %s\n", path, refused_models > before ? "refused" : "streamed");
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 2) {
        std::fprintf(stderr, "usage: poco_fuzz_replay RUNS [FIRST] | FILE... | --seeds FOLDER\n");
        return 2;
    }
    const std::vector<ModelFiles> seeds{small_model(), small_grounded(), small_ensemble()};
    const char* const names[] = {"/poco", "/ground", "/ensemble"};
    if (std::strcmp(arguments[1], "--seeds") == 0) {
        const std::string folder = count > 2 ? arguments[2] : ".";
        bool written = true;
        for (size_t i = 0; i < seeds.size(); ++i)
            written = written && write_text(folder + names[i], input_of(seeds[i]));
        return written ? 0 : 1;
    }
    char* end = nullptr;
    const uint64_t runs = std::strtoull(arguments[1], &end, 10);
    if (*end != '\0') {
        for (int i = 1; i < count; ++i) replay(arguments[i]);
        return 0;
    }
#if defined(__GNUC__)
    if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(say_number);
#endif
    for (const int signal : {SIGABRT, SIGSEGV, SIGFPE, SIGILL}) std::signal(signal, on_signal);
    for (const ModelFiles& seed : seeds) run(input_of(seed));
    if (refused_models > 0) {
        std::fprintf(stderr, "FAILED: a whole model is refused\n");
        return 1;
    }
    const uint64_t first = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0;
    for (number = first; number < first + runs; ++number) run(input_of(damaged(seeds[number % seeds.size()], number)));
    std::printf("%lld of %llu damaged models were refused\n", static_cast<long long>(refused_models),
                static_cast<unsigned long long>(runs));
    return runs < 100 || refused_models > static_cast<int64_t>(runs / 3) ? 0 : 1;
}
