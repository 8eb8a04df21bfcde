#include "stream/ground.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "core/errors.h"
#include "cpu/dispatch.h"
#include "stream/network.h"
#include "stream/vocabulary.h"

namespace poco {
namespace {

constexpr int kForms = 2;  // on the level of the activity, and with the mean of the window taken off

float clipped(float value, float most) {
    return std::min(std::max(value, -most), most);
}

struct Sizes {
    int64_t context = 0, horizon = 0, width = 0, latents = 0;
    float clip = 0;
    std::array<std::vector<int64_t>, kForms> own_means, population_means;  // frames that each feature averages
};

std::vector<int64_t> lengths(const Json& means, int64_t context, bool centred) {
    std::vector<int64_t> found;
    std::set<int64_t> before;
    for (const Json& entry : means.array()) {
        const int64_t given = entry.integer();
        if (given < 0) fail("the model averages over ", given, " frames");
        const int64_t length = std::min(given == 0 ? context : given, context);
        if ((centred && length == context) || !before.insert(length).second) continue;
        found.push_back(length);
    }
    return found;
}

float mean_of(const float* frames, int64_t count) {
    double sum = 0;
    for (int64_t t = 0; t < count; ++t) sum += frames[t];
    return static_cast<float>(sum / static_cast<double>(count));
}

// A map of contexts that first takes a share of their mean off.
void take_mean_off(float* row, int64_t context, float share) {
    const float off = share * mean_of(row, context);
    for (int64_t t = 0; t < context; ++t) row[t] -= off;
}

// poco.ground.networks.Residual, or ShapeResidual: added to the ground, or to the mean of the window.
struct Residual {
    bool of_shape;
    float gain;
    Floats condition_scale, input, input_bias, shift, scale, output, output_bias, skip;

    // The residual takes `share` of the mean off the window.
    Residual(const SafeTensors& tensors, const std::string& prefix, const Sizes& s, bool shape, float share, float used)
        : of_shape(shape), gain(used) {
        const int64_t conditions = 2 * s.horizon;
        condition_scale = tensors.floats(prefix + "condition_scale", {conditions});
        input = tensors.floats(prefix + "input.weight", {s.width, s.context});
        input_bias = tensors.floats(prefix + "input.bias", {s.width});
        shift = tensors.floats(prefix + "shift.weight", {s.width, conditions});
        scale = tensors.floats(prefix + "scale.weight", {s.width, conditions});
        output = tensors.floats(prefix + "output.weight", {s.horizon, s.width});
        output_bias = tensors.floats(prefix + "output.bias", {s.horizon});
        skip = tensors.floats(prefix + "skip.weight", {s.horizon, conditions});
        for (const float value : condition_scale) {
            if (!(value > 0)) fail("'", prefix, "condition_scale' must be positive");
        }
        for (int64_t k = 0; k < s.width; ++k) take_mean_off(input.data() + k * s.context, s.context, share);
    }

    GroundResidual call(int64_t width) const {
        GroundResidual to;
        to.of_shape = of_shape;
        to.gain = gain;
        to.width = width;
        to.condition_scale = condition_scale.data();
        to.in_weight = input.data();
        to.in_bias = input_bias.data();
        to.shift = shift.data();
        to.scale = scale.data();
        to.out_weight = output.data();
        to.out_bias = output_bias.data();
        to.skip = skip.data();
        return to;
    }
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
            add_base(tensors.floats(prefix + "weight", {s.horizon, s.context}), shares[f], f == 1);
            const auto own = static_cast<int64_t>(s.own_means[f].size());
            add_own_map(tensors.floats(prefix + "own_scale", {own}), s.own_means[f], f == 1);
            gains_[f] = shares[f] * gains[f];
        }
        centred_ = shares[1];
        sessions_ = read_vocabulary(tensors.text("ground.vocabulary"), description);
        for (size_t i = 0; i < sessions_.size(); ++i) read_session(tensors, i);
        const Json* const population = config.find("population");
        const bool reads = population != nullptr && !population->is_null() && population->boolean();
        const Floats gains_of_networks = tensors.floats("gains", {reads ? 4 : 3});
        residuals_.emplace_back(tensors, "networks.level.", s, false, centred_, gains_of_networks[0]);
        residuals_.emplace_back(tensors, "networks.shape.", s, true, 1.0f, gains_of_networks[1]);
        residuals_.emplace_back(tensors, "networks.apart.", s, true, 1.0f, gains_of_networks.back());
        stand_apart(gains_of_networks.back());
        population_gain_ = reads ? gains_of_networks[2] : 0.0f;
        if (population_gain_ != 0) {
            const std::string prefix = "networks.population.";
            residuals_.emplace_back(tensors, prefix + "own.", s, false, centred_, population_gain_);
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
    Floats base_;                        // [H, C] the shared maps of both forms, mixed
    Floats own_map_;                     // [Fo of both forms, C]
    std::array<float, kForms> gains_{};  // of the units' terms
    float centred_ = 0;                  // the share of the centred form
    std::vector<SessionTerms> terms_;
    std::vector<Residual> residuals_;
    float ground_ = 1;           // the share of the forecast that stands on the ground
    float population_gain_ = 0;  // of the residual that reads the population
    std::optional<Network> network_;
    Floats embedding_, embedding_bias_;

private:
    // The last value and the map of one form, and the mean that is taken off before and added after.
    void add_base(const Floats& weight, float share, bool centred) {
        const int64_t c = sizes_.context;
        base_.resize(weight.size());
        Floats row(static_cast<size_t>(c));
        for (int64_t h = 0; h < sizes_.horizon; ++h) {
            std::copy(weight.begin() + h * c, weight.begin() + (h + 1) * c, row.begin());
            row.back() += 1.0f;
            if (centred) take_mean_off(row.data(), c, 1.0f);
            const float mean = centred ? 1.0f / static_cast<float>(c) : 0.0f;
            for (int64_t t = 0; t < c; ++t) {
                base_[static_cast<size_t>(h * c + t)] += share * (row[static_cast<size_t>(t)] + mean);
            }
        }
    }

    // The network apart from the ground takes this share of the forecast, and adds to the mean of the window.
    void stand_apart(float share) {
        ground_ = 1.0f - share;
        for (float& entry : base_) entry = ground_ * entry + share / static_cast<float>(sizes_.context);
    }

    // Means over the last frames of a window, over their scale.
    void add_own_map(const Floats& scale, const std::vector<int64_t>& means, bool centred) {
        const int64_t c = sizes_.context;
        for (size_t i = 0; i < means.size(); ++i) {
            Floats row(static_cast<size_t>(c));
            const float each = 1.0f / (static_cast<float>(means[i]) * scale[i]);
            std::fill(row.end() - means[i], row.end(), each);
            if (centred) take_mean_off(row.data(), c, 1.0f);
            own_map_.insert(own_map_.end(), row.begin(), row.end());
        }
    }

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
        : kernels_(cpu_kernels().ground),
          model_(model),
          own_(model.terms_[static_cast<size_t>(session)]),
          units_(model.sessions()[static_cast<size_t>(session)].units) {
        const Sizes& s = model.sizes_;
        latents_.resize(static_cast<size_t>(own_.latents * s.context));
        population_.units = call_.units = units_;
        population_.context = call_.context = s.context;
        population_.threads = call_.threads = arithmetic.threads;
        population_.latents = own_.latents;
        population_.loadings = own_.loadings.data();
        population_.out = latents_.data();
        call_.horizon = s.horizon;
        call_.clip = s.clip;
        call_.base = model.base_.data();
        call_.share = model.ground_;
        call_.own_map = model.own_map_.data();
        for (size_t f = 0; f < kForms; ++f) {
            features_[f].resize(own_.forms[f].scale.size());
            call_.own_features[f] = static_cast<int64_t>(s.own_means[f].size());
            call_.population_features[f] = static_cast<int64_t>(features_[f].size());
            call_.gains[f] = model.gains_[f];
            call_.population[f] = features_[f].data();
            call_.coefficients[f] = own_.forms[f].coefficients.data();
        }
        for (const Residual& residual : model.residuals_) residuals_.push_back(residual.call(s.width));
        call_.residuals = residuals_.data();
        call_.residual_count = static_cast<int64_t>(residuals_.size());
        if (!model.network_ && arithmetic.gpu >= 0) {
            fail<GpuError>(
                "the model has no network over the population, and its ground is the processor's work: take "
                "the processor");
        }
        if (model.network_) {
            network_ = network_forecaster(*model.network_, model.table(session), {}, arithmetic);
            centred_.resize(static_cast<size_t>(units_ * s.context));
            of_network_.resize(static_cast<size_t>(units_ * s.horizon));
        }
    }

    void forecast(const float* x, const uint8_t* seen, float* forecast) override {
        population_.x = x;
        population_.seen = seen;
        kernels_.latents(population_);
        read_population();
        call_.x = x;
        call_.forecast = forecast;
        kernels_.forecast(call_);
        if (network_ == nullptr) return;
        const int64_t context = model_.sizes_.context;
        for (int64_t u = 0; u < units_; ++u) {
            const float off = model_.centred_ * mean_of(x + u * context, context);
            for (int64_t t = 0; t < context; ++t) {
                centred_[static_cast<size_t>(u * context + t)] = x[u * context + t] - off;
            }
        }
        network_->forecast(centred_.data(), seen, of_network_.data());
        for (size_t i = 0; i < of_network_.size(); ++i) forecast[i] += model_.population_gain_ * of_network_[i];
    }

private:
    // The features that the latents give each form: means over their last frames, over their scale, clipped.
    void read_population() {
        const Sizes& s = model_.sizes_;
        for (size_t f = 0; f < kForms; ++f) {
            const std::vector<int64_t>& means = s.population_means[f];
            for (int64_t k = 0; k < own_.latents; ++k) {
                const float* const line = latents_.data() + k * s.context;
                const size_t first = static_cast<size_t>(k) * means.size();
                const float off = f == 1 ? mean_of(line, s.context) : 0.0f;
                for (size_t i = 0; i < means.size(); ++i) {
                    const float found = mean_of(line + s.context - means[i], means[i]) - off;
                    features_[f][first + i] = clipped(found / own_.forms[f].scale[first + i], s.clip);
                }
            }
        }
    }

    const GroundKernels& kernels_;
    const Grounded& model_;
    const SessionTerms& own_;
    int64_t units_;
    Floats latents_, centred_, of_network_;
    std::array<Floats, kForms> features_;
    std::vector<GroundResidual> residuals_;
    GroundLatents population_;
    GroundForecast call_;
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
