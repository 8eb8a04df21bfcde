#include "stream/ground.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "core/errors.h"
#include "core/thread_pool.h"
#include "stream/network.h"
#include "stream/vocabulary.h"

namespace poco {
namespace {

constexpr int kForms = 2;                // on the level of the activity, and with the mean of the window taken off
constexpr float kLeastVariance = 0.05f;  // added to a window's variance before it divides
constexpr int64_t kUnitsAtOnce = 64;     // that a thread takes: their hidden units stay in the cache

float clipped(float value, float most) {
    return std::min(std::max(value, -most), most);
}

// [rows, columns] -> [columns, rows]: products then run along what they write.
Floats turned(const Floats& from, int64_t rows, int64_t columns) {
    Floats to(from.size());
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
            to[static_cast<size_t>(j * rows + i)] = from[static_cast<size_t>(i * columns + j)];
        }
    }
    return to;
}

// out [outputs] += weight^T in, weight [inputs, outputs].
void add_product(const float* in, const float* weight, int64_t inputs, int64_t outputs, float* out) {
    for (int64_t i = 0; i < inputs; ++i) {
        const float factor = in[i];
        const float* const row = weight + i * outputs;
        for (int64_t j = 0; j < outputs; ++j) out[j] += factor * row[j];
    }
}

struct Sizes {
    int64_t context = 0, horizon = 0, width = 0, latents = 0;
    float clip = 0;
    std::array<std::vector<int64_t>, kForms> own_means, population_means;  // frames that each feature averages
};

std::vector<int64_t> lengths(const Json& means, int64_t context, bool centred) {
    std::vector<int64_t> found;
    for (const Json& entry : means.array()) {
        const int64_t given = entry.integer();
        if (given < 0) fail("the model averages over ", given, " frames");
        const int64_t length = std::min(given == 0 ? context : given, context);
        if ((centred && length == context) || std::find(found.begin(), found.end(), length) != found.end()) continue;
        found.push_back(length);
    }
    return found;
}

// poco.ground.residual.Residual, its weights turned.
struct Residual {
    bool of_shape;  // poco.ground.residual.ShapeResidual: what goes in is divided by the size of the window
    Floats condition_scale, input, input_bias, shift, scale, output, output_bias, skip;

    Residual(const SafeTensors& tensors, const std::string& prefix, const Sizes& s, bool shape) : of_shape(shape) {
        const int64_t conditions = 2 * s.horizon;
        const auto matrix = [&](const char* name, int64_t rows, int64_t columns) {
            return turned(tensors.floats(prefix + name, {rows, columns}), rows, columns);
        };
        condition_scale = tensors.floats(prefix + "condition_scale", {conditions});
        input = matrix("input.weight", s.width, s.context);
        input_bias = tensors.floats(prefix + "input.bias", {s.width});
        shift = matrix("shift.weight", s.width, conditions);
        scale = matrix("scale.weight", s.width, conditions);
        output = matrix("output.weight", s.horizon, s.width);
        output_bias = tensors.floats(prefix + "output.bias", {s.horizon});
        skip = matrix("skip.weight", s.horizon, conditions);
        for (const float value : condition_scale) {
            if (!(value > 0)) fail("'", prefix, "condition_scale' must be positive");
        }
    }

    // out [H] += gain * the term of one unit; size divides the condition and multiplies the term, and x is divided by
    // it already; room [2 H + 2 width + H] is overwritten.
    void add(const Sizes& s, const float* x, const float* condition, float size, float gain, float* room,
             float* out) const {
        const int64_t conditions = 2 * s.horizon;
        float *const e = room, *const hidden = e + conditions, *const factor = hidden + s.width;
        float* const term = factor + s.width;
        for (int64_t i = 0; i < conditions; ++i) {
            e[i] = clipped(condition[i] / size / condition_scale[static_cast<size_t>(i)], s.clip);
        }
        std::copy(input_bias.begin(), input_bias.end(), hidden);
        add_product(x, input.data(), s.context, s.width, hidden);
        add_product(e, shift.data(), conditions, s.width, hidden);
        std::fill(factor, factor + s.width, 1.0f);
        add_product(e, scale.data(), conditions, s.width, factor);
        for (int64_t j = 0; j < s.width; ++j) hidden[j] = std::max(hidden[j], 0.0f) * factor[j];
        std::copy(output_bias.begin(), output_bias.end(), term);
        add_product(hidden, output.data(), s.width, s.horizon, term);
        add_product(e, skip.data(), conditions, s.horizon, term);
        for (int64_t h = 0; h < s.horizon; ++h) out[h] += gain * size * term[h];
    }

    static int64_t room(const Sizes& s) { return 3 * s.horizon + 2 * s.width; }
};

// What all units share of one form.
struct Form {
    Floats weight;  // [C, H], turned
    Floats own_scale;
    float share = 0, gain = 0;  // of the form, and of its units' terms
};

// What belongs to one session in one form.
struct Terms {
    Floats scale;         // [Fp]
    Floats coefficients;  // [N, F, H]
};

struct SessionTerms {
    int64_t latents = 0;
    Floats loadings;  // [N, K]
    std::array<Terms, kForms> forms;
};

class Grounded : public Model {
public:
    Grounded(const Json& config, const Json& description, const SafeTensors& tensors) {
        Sizes& s = sizes_;
        s.context = context_ = config.at("context").integer();
        s.horizon = horizon_ = config.at("horizon").integer();
        s.width = config.at("width").integer();
        s.clip = static_cast<float>(config.at("clip").number());
        const Json* const latents = config.find("latents");
        s.latents = latents == nullptr || latents->is_null() ? 8 : latents->integer();
        if (s.context < 1 || s.horizon < 1 || s.width < 1 || s.latents < 0 || !(s.clip > 0)) {
            fail("the model's sizes must be positive");
        }
        for (int f = 0; f < kForms; ++f) {
            s.own_means[static_cast<size_t>(f)] = lengths(config.at("own_means"), s.context, f == 1);
            s.population_means[static_cast<size_t>(f)] = lengths(config.at("population_means"), s.context, f == 1);
        }
        const Floats shares = tensors.floats("ground.shares", {kForms});
        const Floats gains = tensors.floats("ground.gains", {kForms});
        for (size_t f = 0; f < kForms; ++f) {
            const std::string prefix = "ground.forms." + std::to_string(f) + ".";
            forms_[f].weight = turned(tensors.floats(prefix + "weight", {s.horizon, s.context}), s.horizon, s.context);
            forms_[f].own_scale = tensors.floats(prefix + "own_scale", {static_cast<int64_t>(s.own_means[f].size())});
            forms_[f].share = shares[f];
            forms_[f].gain = shares[f] * gains[f];
        }
        sessions_ = read_vocabulary(tensors.text("ground.vocabulary"), description);
        for (size_t i = 0; i < sessions_.size(); ++i) read_session(tensors, i);
        const Floats of_residuals = tensors.floats("gains", {-1});
        residuals_.emplace_back(tensors, "residuals.level.", s, false);
        residuals_.emplace_back(tensors, "residuals.shape.", s, true);
        const Json* const population = config.find("population");
        const bool reads = population != nullptr && !population->is_null() && population->boolean();
        if (of_residuals.size() != (reads ? 3 : 2)) fail("the model has ", of_residuals.size(), " gains");
        residual_gains_ = of_residuals;
        if (reads && of_residuals[2] != 0) {
            const std::string prefix = "residuals.population.";
            residuals_.emplace_back(tensors, prefix + "own.", s, false);
            network_.emplace(network_config(), tensors, prefix + "poco.");
            embedding_ = tensors.floats(prefix + "embedding.weight", {network_->width, s.latents});
            embedding_bias_ = tensors.floats(prefix + "embedding.bias", {network_->width});
        }
    }

    std::unique_ptr<Forecaster> forecaster(int64_t session, const Arithmetic& arithmetic) const override;

    // The embeddings of a session's units that the network takes, [N, d]: a linear map of their correlations.
    Floats table(int64_t session) const {
        const SessionTerms& own = terms_[static_cast<size_t>(session)];
        const int64_t units = sessions_[static_cast<size_t>(session)].units, d = network_->width;
        const size_t means = sizes_.population_means[0].size();
        Floats found(static_cast<size_t>(units * d));
        for (int64_t u = 0; u < units; ++u) {
            float* const to = found.data() + u * d;
            std::copy(embedding_bias_.begin(), embedding_bias_.end(), to);
            for (int64_t k = 0; k < own.latents; ++k) {
                const float size = means == 0 ? 1.0f : own.forms[0].scale[static_cast<size_t>(k) * means];
                const float correlation = own.loadings[static_cast<size_t>(u * own.latents + k)] * size;
                for (int64_t j = 0; j < d; ++j) {
                    to[j] += embedding_[static_cast<size_t>(j * sizes_.latents + k)] * correlation;
                }
            }
        }
        return found;
    }

    Sizes sizes_;
    std::array<Form, kForms> forms_;
    std::vector<SessionTerms> terms_;
    std::vector<Residual> residuals_;
    Floats residual_gains_;
    std::optional<Network> network_;
    Floats embedding_, embedding_bias_;

private:
    void read_session(const SafeTensors& tensors, size_t index) {
        Session& session = sessions_[index];
        const std::string prefix = "ground.session_terms." + std::to_string(index) + ".";
        read_normalisation(tensors, prefix, session);
        SessionTerms own;
        own.loadings = tensors.floats(prefix + "loadings", {session.units, -1});
        own.latents = static_cast<int64_t>(own.loadings.size()) / session.units;
        if (own.latents > sizes_.latents) fail("session '", session.name, "' has more latents than the model");
        for (size_t f = 0; f < kForms; ++f) {
            const std::string form = prefix + "forms." + std::to_string(f) + ".";
            const auto of_population = own.latents * static_cast<int64_t>(sizes_.population_means[f].size());
            const int64_t features = static_cast<int64_t>(sizes_.own_means[f].size()) + of_population;
            own.forms[f].scale = tensors.floats(form + "scale", {of_population});
            own.forms[f].coefficients =
                tensors.floats(form + "coefficients", {session.units, features, sizes_.horizon});
        }
        terms_.push_back(std::move(own));
    }

    // The sizes of poco.ground.population.PopulationResidual.
    Json network_config() const {
        const int64_t c = sizes_.context;
        int64_t length = c;
        for (const int64_t n : {c / 3, c / 2}) {
            if (n > 0 && c % n == 0) {
                length = n;
                break;
            }
        }
        const auto entry = [](const char* name, int64_t value) {
            return "\"" + std::string(name) + "\": " + std::to_string(value);
        };
        const std::string text = "{" + entry("context", c) + ", " + entry("horizon", sizes_.horizon) + ", " +
                                 entry("segment_length", length) + ", " + entry("latents", 8) + ", " +
                                 entry("width", std::max<int64_t>(8, sizes_.width / 4)) + ", " + entry("layers", 1) +
                                 ", " + entry("heads", 4) + ", " + entry("head_width", 32) + ", " +
                                 entry("ffn_width", std::max<int64_t>(8, sizes_.width / 2)) + ", " +
                                 entry("film_width", sizes_.width) + "}";
        return Json::parse(text, "the population's residual");
    }
};

class GroundedForecaster : public Forecaster {
public:
    GroundedForecaster(const Grounded& model, int64_t session, const Arithmetic& arithmetic)
        : model_(model),
          own_(model.terms_[static_cast<size_t>(session)]),
          units_(model.sessions()[static_cast<size_t>(session)].units),
          threads_(arithmetic.threads) {
        const Sizes& s = model.sizes_;
        latents_.resize(static_cast<size_t>(own_.latents * s.context));
        for (size_t f = 0; f < kForms; ++f) features_[f].resize(own_.forms[f].scale.size());
        most_features_ = std::max(s.own_means[0].size(), s.own_means[1].size());
        room_size_ = static_cast<size_t>(s.context + 2 * s.horizon + Residual::room(s)) + most_features_;
        room_.resize(room_size_ * static_cast<size_t>(std::max(1, threads_)));
        if (model.network_) {
            network_ = network_forecaster(*model.network_, model.table(session), {}, arithmetic);
            centred_.resize(static_cast<size_t>(units_ * s.context));
            of_network_.resize(static_cast<size_t>(units_ * s.horizon));
        }
    }

    void forecast(const float* x, const uint8_t* seen, float* forecast) override {
        read_population(x, seen);
        const Sizes& s = model_.sizes_;
        if (network_ != nullptr) {
            const float share = model_.forms_[1].share;
            for (int64_t u = 0; u < units_; ++u) {
                const float off = share * mean(x + u * s.context);
                for (int64_t t = 0; t < s.context; ++t) {
                    centred_[static_cast<size_t>(u * s.context + t)] = x[u * s.context + t] - off;
                }
            }
            network_->forecast(centred_.data(), seen, of_network_.data());
        }
        const int64_t blocks = (units_ + kUnitsAtOnce - 1) / kUnitsAtOnce;
        parallel_for(blocks, threads_, [&](int64_t block, int worker) {
            const int64_t last = std::min(units_, (block + 1) * kUnitsAtOnce);
            for (int64_t u = block * kUnitsAtOnce; u < last; ++u) {
                one(u, x + u * s.context, room_.data() + static_cast<size_t>(worker) * room_size_,
                    forecast + u * s.horizon);
            }
        });
    }

private:
    float mean(const float* x) const {
        double sum = 0;
        for (int64_t t = 0; t < model_.sizes_.context; ++t) sum += x[t];
        return static_cast<float>(sum / static_cast<double>(model_.sizes_.context));
    }

    // The size of a window whose mean is taken off.
    float size_of(const float* x) const {
        double sum = 0;
        for (int64_t t = 0; t < model_.sizes_.context; ++t) sum += static_cast<double>(x[t]) * x[t];
        return std::sqrt(static_cast<float>(sum / static_cast<double>(model_.sizes_.context)) + kLeastVariance);
    }

    // Means over the last frames of a line, less `off`, over their scale, clipped.
    void features(const float* line, float off, const std::vector<int64_t>& means, const float* scale,
                  float* to) const {
        const Sizes& s = model_.sizes_;
        for (size_t i = 0; i < means.size(); ++i) {
            double sum = 0;
            for (int64_t t = s.context - means[i]; t < s.context; ++t) sum += line[t];
            to[i] = clipped((static_cast<float>(sum / static_cast<double>(means[i])) - off) / scale[i], s.clip);
        }
    }

    // The latents over the context, and the features that they give each form.
    void read_population(const float* x, const uint8_t* seen) {
        const Sizes& s = model_.sizes_;
        std::fill(latents_.begin(), latents_.end(), 0.0f);
        for (int64_t u = 0; u < units_; ++u) {
            if (seen[u] == 0) continue;
            for (int64_t k = 0; k < own_.latents; ++k) {
                const float loading = own_.loadings[static_cast<size_t>(u * own_.latents + k)];
                float* const to = latents_.data() + k * s.context;
                const float* const from = x + u * s.context;
                for (int64_t t = 0; t < s.context; ++t) to[t] += loading * from[t];
            }
        }
        for (size_t f = 0; f < kForms; ++f) {
            const std::vector<int64_t>& means = s.population_means[f];
            for (int64_t k = 0; k < own_.latents; ++k) {
                const float* const line = latents_.data() + k * s.context;
                const size_t first = static_cast<size_t>(k) * means.size();
                features(line, f == 1 ? mean(line) : 0.0f, means, own_.forms[f].scale.data() + first,
                         features_[f].data() + first);
            }
        }
    }

    void one(int64_t unit, const float* x, float* room, float* out) const {
        const Sizes& s = model_.sizes_;
        const int64_t h_count = s.horizon;
        float *const inside = room, *const condition = inside + s.context, *const own = condition + 2 * h_count;
        float* const rest = own + most_features_;
        std::fill(condition, condition + 2 * h_count, 0.0f);
        std::fill(out, out + h_count, 0.0f);
        const float off_all = mean(x);
        for (size_t f = 0; f < kForms; ++f) {
            const Form& form = model_.forms_[f];
            const Terms& terms = own_.forms[f];
            const float off = f == 1 ? off_all : 0.0f;
            for (int64_t t = 0; t < s.context; ++t) inside[t] = x[t] - off;
            float* const base = rest;  // the residual's room is not in use yet
            std::fill(base, base + h_count, inside[s.context - 1] + off);
            add_product(inside, form.weight.data(), s.context, h_count, base);
            for (int64_t h = 0; h < h_count; ++h) out[h] += form.share * base[h];
            features(x, off, s.own_means[f], form.own_scale.data(), own);
            const int64_t own_count = static_cast<int64_t>(s.own_means[f].size());
            const int64_t count = own_count + static_cast<int64_t>(features_[f].size());
            const float* const given = terms.coefficients.data() + unit * count * h_count;
            std::fill(base, base + 2 * h_count, 0.0f);
            add_product(own, given, own_count, h_count, base);
            add_product(features_[f].data(), given + own_count * h_count, count - own_count, h_count, base + h_count);
            for (int64_t i = 0; i < 2 * h_count; ++i) condition[i] += form.gain * base[i];
        }
        for (int64_t h = 0; h < h_count; ++h) out[h] += condition[h] + condition[h_count + h];
        for (size_t i = 0; i < model_.residuals_.size(); ++i) {
            const float gain = model_.residual_gains_[i];
            if (gain == 0) continue;
            const Residual& residual = model_.residuals_[i];
            const float off = residual.of_shape ? off_all : model_.forms_[1].share * off_all;
            for (int64_t t = 0; t < s.context; ++t) inside[t] = x[t] - off;
            float size = 1;
            if (residual.of_shape) {
                size = size_of(inside);
                for (int64_t t = 0; t < s.context; ++t) inside[t] /= size;
            }
            residual.add(s, inside, condition, size, gain, rest, out);
        }
        if (network_ != nullptr) {
            const float gain = model_.residual_gains_[2];
            for (int64_t h = 0; h < h_count; ++h) out[h] += gain * of_network_[static_cast<size_t>(unit * h_count + h)];
        }
    }

    const Grounded& model_;
    const SessionTerms& own_;
    int64_t units_;
    int threads_;
    size_t most_features_ = 0, room_size_ = 0;
    Floats latents_, room_, centred_, of_network_;
    std::array<Floats, kForms> features_;
    std::unique_ptr<Forecaster> network_;
};

std::unique_ptr<Forecaster> Grounded::forecaster(int64_t session, const Arithmetic& arithmetic) const {
    return std::make_unique<GroundedForecaster>(*this, session, arithmetic);
}

}  // namespace

std::shared_ptr<const Model> load_grounded(const Json& config, const Json& description, const SafeTensors& tensors) {
    return std::make_shared<Grounded>(config, description, tensors);
}

}  // namespace poco
