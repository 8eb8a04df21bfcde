// A model file for streaming: what training saved, read once and shared by many streams. It never changes once loaded.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/memory.h"

namespace poco {

// The settings of a forecaster's arithmetic.
struct Arithmetic {
    bool bfloat16 = false;
    int threads = 1;
    int gpu = -1;       // its number; -1: the processor
    bool spin = false;  // ask a GPU without a pause whether it is done
};

// Forecasts of one session, frame after frame. Not to be used by two threads at once.
class Forecaster {
public:
    virtual ~Forecaster() = default;

    // x [N, C] normalised activity, oldest first -> forecast [N, H], normalised. Units whose `seen` is 0 are left out
    // of what the population tells; their forecasts are made all the same. Nothing is allocated after the first call.
    virtual void forecast(const float* x, const uint8_t* seen, float* forecast) = 0;
};

// A session that a model knows.
struct Session {
    std::string name;
    int64_t units = 0;
    uint64_t units_hash = 0;  // of their names, in their order
    Floats mean, std;         // [N], of the normalisation
    bool normalised = true;   // whether these were given; otherwise they are 0 and 1
    double rate_hz = 0;       // of the recording it was learnt from; 0: not known
};

class Model {
public:
    virtual ~Model() = default;

    int64_t context() const { return context_; }
    int64_t horizon() const { return horizon_; }
    const std::vector<Session>& sessions() const { return sessions_; }

    // Forecasts of one session, which must be in 0 .. sessions().size() - 1. The model outlives the forecaster.
    virtual std::unique_ptr<Forecaster> forecaster(int64_t session, const Arithmetic& arithmetic) const = 0;

    // The model in a folder that holds config.json and model.safetensors. Throws Error for anything that is missing,
    // damaged, or not a model that can be streamed.
    static std::shared_ptr<const Model> load(const std::string& folder);

    // The same out of what these two files hold; `folder` is for messages.
    static std::shared_ptr<const Model> read(std::string_view config, Buffer<uint8_t> tensors,
                                             const std::string& folder);

protected:
    int64_t context_ = 0, horizon_ = 0;
    std::vector<Session> sessions_;
};

}  // namespace poco
