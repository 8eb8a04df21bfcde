// A small POCO on disk, for the tests of streaming.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int64_t kUnits = 7, kContext = 12, kHorizon = 4;

struct ModelFiles {
    std::string config, tensors;
};

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
        header_ +=
            std::string(header_.empty() ? "{" : ",") + "\"" + name + "\":{\"dtype\":\"" + type + "\",\"shape\":[";
        for (size_t i = 0; i < shape.size(); ++i) header_ += (i > 0 ? "," : "") + std::to_string(shape[i]);
        header_ += "],\"data_offsets\":[" + std::to_string(data_.size()) + "," +
                   std::to_string(data_.size() + data.size()) + "]}";
        data_ += data;
    }
    std::string file() const {
        const std::string header = header_ + "}";
        std::string length(8, '\0');
        for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i) & 255);
        return length + header + data_;
    }

private:
    std::string header_, data_;
    uint64_t state_ = 1;
};

inline ModelFiles small_model() {
    constexpr int64_t L = 4, d = 10, dh = 8, heads = 2, f = 15, k = 18, q = 3;
    TensorWriter w;
    const auto affine = [&](const std::string& name, const std::vector<int64_t>& shape, float around = 0.0f) {
        w.floats(name + ".weight", shape, around, 0.3f);
        w.floats(name + ".bias", {shape[0]}, 0.0f, 0.3f);
    };
    const auto feed_forward = [&](const std::string& name) {
        affine(name + ".norm", {d}, 1.0f);
        affine(name + ".input", {2 * f, d});
        affine(name + ".output", {d, f});
    };
    w.floats("latents", {q, d}, 0, 1);
    const std::string vocabulary =
        "[{\"name\": \"fish\", \"units\": [\"0\", \"1\", \"2\", \"3\", \"4\", \"5\", \"6\"], \"dataset\": \"x\", "
        "\"unit_types\": []}]";
    w.add("vocabulary", "U8", {static_cast<int64_t>(vocabulary.size())}, vocabulary);
    affine("token", {d, L});
    w.floats("rotary.frequencies", {dh / 4}, 1.0f, 0.5f);
    for (const char* const side : {"encoder", "decoder"}) {
        const std::string name = side;
        affine(name + ".query_norm", {d}, 1.0f);
        affine(name + ".context_norm", {d}, 1.0f);
        for (const char* const part : {".query", ".key", ".value"}) w.floats(name + part + ".weight", {dh, d}, 0, 0.3f);
        affine(name + ".output", {d, dh});
        feed_forward(name + "_ffn");
    }
    affine("layers.0.attention.norm", {d}, 1.0f);
    w.floats("layers.0.attention.query_key_value.weight", {3 * heads * dh, d}, 0, 0.3f);
    affine("layers.0.attention.output", {d, heads * dh});
    feed_forward("layers.0.ffn");
    affine("film.scale", {k, d});
    affine("film.shift", {k, d});
    affine("film.input", {k, kContext});
    affine("film.output", {kHorizon, k});
    w.floats("session_embeddings.0.units", {kUnits, d}, 0, 1);
    w.floats("session_embeddings.0.session", {d}, 0, 1);
    w.floats("session_embeddings.0.mean", {kUnits}, 0, 1);
    w.floats("session_embeddings.0.std", {kUnits}, 1.0f, 0.5f);
    w.floats("datasets.0", {d}, 0, 1);
    const std::string config =
        "{\"format\": 1, \"model\": \"POCO\", \"rate_hz\": {\"fish\": 2.0}, \"config\": {\"context\": 12, "
        "\"horizon\": 4, \"segment_length\": 4, \"decoder_context\": null, \"latents\": 3, \"width\": 10, \"layers\": "
        "1, "
        "\"heads\": 2, \"head_width\": 8, \"ffn_width\": 15, \"film_width\": 18, \"film_depth\": 1, "
        "\"session_embedding\": true, \"unit_type_embedding\": false, \"latent_session_embedding\": false}}";
    return {config, w.file()};
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
