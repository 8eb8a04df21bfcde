// Small models on disk, for the tests of streaming.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace {

constexpr int64_t kUnits = 7, kContext = 12, kHorizon = 4;

struct ModelFiles {
    std::string config, tensors;
};

// Eight bytes, the lowest first.
inline std::string little_endian(uint64_t number) {
    std::string bytes(8, '\0');
    for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(number >> (8 * i) & 255);
    return bytes;
}

class TensorWriter {
public:
    void floats(const std::string& name, const std::vector<int64_t>& shape, float around, float size) {
        std::string data;
        int64_t count = 1;
        for (const int64_t side : shape) count *= side;
        for (int64_t i = 0; i < count; ++i) {
            state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
            const float value = around + size * (static_cast<float>(state_ >> 40) / 8388608.0f - 1.0f);
            data.append(reinterpret_cast<const char*>(&value), sizeof value);
        }
        add(name, "F32", shape, data);
    }
    void add(const std::string& name, const char* type, const std::vector<int64_t>& shape, const std::string& data) {
        header_ += std::string(header_.empty() ? "{" : ",") + "\"" + begin_ + name + "\":{\"dtype\":\"" + type +
                   "\",\"shape\":[";
        for (size_t i = 0; i < shape.size(); ++i) header_ += (i > 0 ? "," : "") + std::to_string(shape[i]);
        header_ += "],\"data_offsets\":[" + std::to_string(data_.size()) + "," +
                   std::to_string(data_.size() + data.size()) + "]}";
        data_ += data;
    }
    // What the names of tensors begin with from now on.
    void begin(const std::string& name) { begin_ = name; }
    std::string file() const {
        const std::string header = header_ + "}";
        return little_endian(header.size()) + header + data_;
    }

private:
    std::string header_, data_, begin_;
    uint64_t state_ = 1;
};

// Adds tensors of several shapes, weights of 0.3 at most.
class Layers {
public:
    Layers(TensorWriter& to, const std::string& prefix) : to_(to), prefix_(prefix) {}

    void weight(const std::string& name, const std::vector<int64_t>& shape) const {
        to_.floats(prefix_ + name + ".weight", shape, 0, 0.3f);
    }
    void affine(const std::string& name, const std::vector<int64_t>& shape) const {
        weight(name, shape);
        to_.floats(prefix_ + name + ".bias", {shape[0]}, 0, 0.3f);
    }
    void norm(const std::string& name, int64_t d) const {
        to_.floats(prefix_ + name + ".weight", {d}, 1, 0.3f);
        to_.floats(prefix_ + name + ".bias", {d}, 0, 0.3f);
    }
    void feed_forward(const std::string& name, int64_t d, int64_t f) const {
        norm(name + ".norm", d);
        affine(name + ".input", {2 * f, d});
        affine(name + ".output", {d, f});
    }

private:
    TensorWriter& to_;
    std::string prefix_;
};

struct NetworkSizes {
    int64_t segment_length, width, head_width, heads, ffn_width, film_width, latents;
};

// The tensors of a network of one layer.
inline void add_network(TensorWriter& w, const std::string& prefix, const NetworkSizes& s) {
    const int64_t d = s.width, dh = s.head_width, f = s.ffn_width, k = s.film_width, inner = s.heads * dh;
    const Layers to(w, prefix);
    w.floats(prefix + "latents", {s.latents, d}, 0, 1);
    to.affine("token", {d, s.segment_length});
    w.floats(prefix + "rotary.frequencies", {dh / 4}, 1.0f, 0.5f);
    for (const char* const side : {"encoder", "decoder"}) {
        const std::string name = side;
        to.norm(name + ".query_norm", d);
        to.norm(name + ".context_norm", d);
        for (const char* const part : {".query", ".key", ".value"}) to.weight(name + part, {dh, d});
        to.affine(name + ".output", {d, dh});
        to.feed_forward(name + "_ffn", d, f);
    }
    to.norm("layers.0.attention.norm", d);
    to.weight("layers.0.attention.query_key_value", {3 * inner, d});
    to.affine("layers.0.attention.output", {d, inner});
    to.feed_forward("layers.0.ffn", d, f);
    to.affine("film.scale", {k, d});
    to.affine("film.shift", {k, d});
    to.affine("film.input", {k, kContext});
    to.affine("film.output", {kHorizon, k});
}

// What small models may differ in.
struct Fish {
    int64_t units = kUnits;
    bool reversed = false;   // the names of its units
    float deviation = 1.0f;  // of its units, about
};

inline void add_vocabulary(TensorWriter& w, const std::string& name, const Fish& fish = {}) {
    std::string names;
    for (int64_t u = 0; u < fish.units; ++u) {
        names += (u > 0 ? ", \"" : "\"") + std::to_string(fish.reversed ? fish.units - 1 - u : u) + "\"";
    }
    const std::string vocabulary =
        "[{\"name\": \"fish\", \"units\": [" + names + "], \"dataset\": \"x\", \"unit_types\": []}]";
    w.add(name, "U8", {static_cast<int64_t>(vocabulary.size())}, vocabulary);
}

inline void add_normalisation(TensorWriter& w, const std::string& prefix, const Fish& fish = {}) {
    w.floats(prefix + "mean", {fish.units}, 0, 1);
    w.floats(prefix + "std", {fish.units}, fish.deviation, 0.5f * fish.deviation);
}

// A POCO with units' embeddings of its own, but for what add_session adds.
inline void add_poco(TensorWriter& w, const Fish& fish = {}) {
    add_network(w, "", {4, 10, 8, 2, 15, 18, 3});
    w.floats("session_embeddings.0.units", {fish.units, 10}, 0, 1);
    w.floats("session_embeddings.0.session", {10}, 0, 1);
    w.floats("datasets.0", {10}, 0, 1);
}

inline void add_session(TensorWriter& w, const Fish& fish = {}) {
    add_vocabulary(w, "vocabulary", fish);
    add_normalisation(w, "session_embeddings.0.", fish);
}

constexpr char kPocoSizes[] =
    "{\"context\": 12, \"horizon\": 4, \"segment_length\": 4, \"decoder_context\": null, \"latents\": 3, "
    "\"width\": 10, \"layers\": 1, \"heads\": 2, \"head_width\": 8, \"ffn_width\": 15, \"film_width\": 18, "
    "\"film_depth\": 1, \"session_embedding\": true, \"unit_type_embedding\": false, "
    "\"latent_session_embedding\": false}";

inline std::string config_of(const std::string& kind, const std::string& sizes) {
    return "{\"format\": 1, \"model\": \"" + kind + "\", \"rate_hz\": {\"fish\": 2.0}, \"config\": " + sizes + "}";
}

inline ModelFiles small_model(const Fish& fish = {}) {
    TensorWriter w;
    add_poco(w, fish);
    add_session(w, fish);
    return {config_of("POCO", kPocoSizes), w.file()};
}

// Two of them that forecast as one; each has a session of its own where these differ.
inline ModelFiles small_ensemble(const Fish& first = {}, const Fish& second = {}) {
    TensorWriter w;
    const bool differ = first.reversed != second.reversed;
    w.begin("members.0.");
    add_poco(w, first);
    if (differ) add_session(w, first);
    w.begin("members.1.");
    add_poco(w, second);
    if (differ) add_session(w, second);
    w.begin("shared.");
    if (!differ) add_session(w, first);
    const std::string sizes = "{\"kind\": \"POCO\", \"members\": [{}, {}], \"sizes\": " + std::string(kPocoSizes) + "}";
    return {config_of("Ensemble", sizes), w.file()};
}

inline void add_residual(TensorWriter& w, const std::string& prefix, int64_t width) {
    const Layers to(w, prefix);
    w.floats(prefix + "condition_scale", {2 * kHorizon}, 1.0f, 0.5f);
    to.affine("input", {width, kContext});
    to.weight("shift", {width, 2 * kHorizon});
    to.weight("scale", {width, 2 * kHorizon});
    to.affine("output", {kHorizon, width});
    to.weight("skip", {kHorizon, 2 * kHorizon});
}

// A forecaster on the ground with all networks.
inline ModelFiles small_grounded() {
    constexpr int64_t width = 16, latents = 3;
    constexpr int64_t own[] = {3, 2}, population[] = {2, 1};  // means of each form, those over a whole context once
    TensorWriter w;
    w.floats("ground.shares", {2}, 0.5f, 0.2f);
    w.floats("ground.gains", {2}, 0.5f, 0.2f);
    add_vocabulary(w, "ground.vocabulary");
    add_normalisation(w, "ground.session_terms.0.");
    w.floats("ground.session_terms.0.loadings", {kUnits, latents}, 0, 0.3f);
    for (size_t f = 0; f < 2; ++f) {
        const std::string form = "forms." + std::to_string(f) + ".", of_session = "ground.session_terms.0." + form;
        w.floats("ground." + form + "weight", {kHorizon, kContext}, 0, 0.3f);
        w.floats("ground." + form + "own_scale", {own[f]}, 1.0f, 0.5f);
        w.floats(of_session + "scale", {latents * population[f]}, 1.0f, 0.5f);
        w.floats(of_session + "coefficients", {kUnits, own[f] + latents * population[f], kHorizon}, 0, 0.3f);
    }
    w.floats("gains", {4}, 0.3f, 0.1f);
    add_residual(w, "networks.level.", width);
    add_residual(w, "networks.shape.", width);
    add_residual(w, "networks.apart.", width);
    add_residual(w, "networks.population.own.", width);
    add_network(w, "networks.population.poco.", {4, 8, 32, 4, 8, width, 8});
    Layers(w, "networks.population.").affine("embedding", {8, latents});
    const std::string sizes =
        "{\"context\": 12, \"horizon\": 4, \"own_means\": [1, 4, 0], \"population_means\": [1, 0], \"latents\": 3, "
        "\"width\": 16, \"clip\": 5.0, \"population\": true}";
    return {config_of("Grounded", sizes), w.file()};
}

inline bool write_text(const std::string& path, const std::string& bytes) {
    std::FILE* const file = std::fopen(path.c_str(), "wb");
    if (file == nullptr) return false;
    const bool done = std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
    return std::fclose(file) == 0 && done;
}

inline bool write_model(const std::string& folder, const ModelFiles& files) {
    return write_text(folder + "/config.json", files.config) &&
           write_text(folder + "/model.safetensors", files.tensors);
}

}  // namespace
