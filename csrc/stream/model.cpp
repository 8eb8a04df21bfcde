#include "stream/model.h"

#include <filesystem>
#include <map>
#include <system_error>

#include "core/errors.h"
#include "stream/ensemble.h"
#include "stream/ground.h"
#include "stream/json.h"
#include "stream/network.h"
#include "stream/safetensors.h"
#include "stream/vocabulary.h"

namespace poco {
namespace {

constexpr int64_t kFormat = 1;  // of model files
constexpr uint64_t kLargestConfig = 64'000'000, kLargestTensors = 1ull << 40;

// A POCO whose units have embeddings of their own.
class Poco : public Model {
public:
    Poco(const Json& config, const Json& description, const SafeTensors& tensors) : network_(config, tensors, "") {
        context_ = network_.context;
        horizon_ = network_.horizon;
        const std::string vocabulary = tensors.text("vocabulary");
        sessions_ = read_vocabulary(vocabulary, description);
        const Json entries = Json::parse(vocabulary, "the model's vocabulary");
        const bool shared = config.at("session_embedding").boolean(),
                   typed = config.at("unit_type_embedding").boolean();
        const bool in_latents = config.at("latent_session_embedding").boolean();
        std::map<std::string, size_t> datasets, types;  // their numbers, in the order in which they come
        const auto place = [](std::map<std::string, size_t>& names, const std::string& name) {
            return std::to_string(names.emplace(name, names.size()).first->second);
        };
        for (size_t i = 0; i < sessions_.size(); ++i) {
            const std::string prefix = "session_embeddings." + std::to_string(i) + ".";
            const Json& entry = entries.array()[i];
            const int64_t units = sessions_[i].units, d = network_.width;
            Floats table = tensors.floats(prefix + "units", {units, d});
            Floats shift = tensors.floats(prefix + "session", {d});
            const std::string dataset = "datasets." + place(datasets, entry.at("dataset").string());
            add(shift, tensors.floats(dataset, {d}));
            if (shared) add(table, shift);
            if (typed) {
                const std::vector<Json>& of_units = entry.at("unit_types").array();
                if (static_cast<int64_t>(of_units.size()) != units) fail("the model lacks types of units");
                for (const Json& type : of_units) place(types, type.string());
                for (int64_t u = 0; u < units; ++u) {
                    const std::string name = "unit_types." + place(types, of_units[static_cast<size_t>(u)].string());
                    const Floats of_type = tensors.floats(name, {d});
                    for (int64_t j = 0; j < d; ++j)
                        table[static_cast<size_t>(u * d + j)] += of_type[static_cast<size_t>(j)];
                }
            }
            read_normalisation(tensors, prefix, sessions_[i]);
            tables_.push_back(std::move(table));
            latent_shifts_.push_back(in_latents ? shift : Floats());
        }
    }

    std::unique_ptr<Forecaster> forecaster(int64_t session, const Arithmetic& arithmetic) const override {
        const auto i = static_cast<size_t>(session);
        return network_forecaster(network_, tables_[i], latent_shifts_[i], arithmetic);
    }

private:
    // Adds a row to every row.
    static void add(Floats& rows, const Floats& row) {
        for (size_t i = 0; i < rows.size(); ++i) rows[i] += row[i % row.size()];
    }

    Network network_;
    std::vector<Floats> tables_, latent_shifts_;
};

constexpr size_t kMostMembers = 64;

// The model of a kind with these sizes. Throws Error if there is none of that kind.
std::shared_ptr<const Model> build(const std::string& kind, const Json& config, const Json& description,
                                   const SafeTensors& tensors) {
    if (kind == "POCO") return std::make_shared<Poco>(config, description, tensors);
    if (kind == "Grounded") return load_grounded(config, description, tensors);
    fail("a model of kind '", kind, "'; what can be streamed is POCO and Grounded, and ensembles of them");
}

// Members whose tensors are named members.0. ..., members.1. ..., and shared. ... for what all have alike.
std::shared_ptr<const Model> build_ensemble(const Json& config, const Json& description, const SafeTensors& tensors) {
    const size_t count = config.at("members").array().size();
    if (count > kMostMembers) fail("an ensemble of ", count, " members; this version reads ", kMostMembers);
    std::vector<std::shared_ptr<const Model>> members;
    for (size_t k = 0; k < count; ++k) {
        const SafeTensors own = tensors.behind({"shared.", "members." + std::to_string(k) + "."});
        members.push_back(build(config.at("kind").string(), config.at("sizes"), description, own));
    }
    return ensemble_of(std::move(members));
}

}  // namespace

std::shared_ptr<const Model> Model::load(const std::string& folder) {
    const auto there = [](const std::string& place) {
        std::error_code ignored;
        return std::filesystem::exists(place + "/model.safetensors", ignored);
    };
    const std::string within = folder + "/model";  // of the folder of a run
    if (folder.empty()) fail("no folder was given: its name is empty");
    const std::string place = !there(folder) && there(within) ? within : folder;
    const Buffer<uint8_t> text = read_file(place + "/config.json", kLargestConfig);
    const std::string_view config(reinterpret_cast<const char*>(text.data()), text.size());
    return read(config, read_file(place + "/model.safetensors", kLargestTensors), place);
}

std::shared_ptr<const Model> Model::read(std::string_view config, Buffer<uint8_t> tensors, const std::string& folder) {
    const Json description = Json::parse(config, folder + "/config.json");
    if (description.at("format").integer() != kFormat) {
        fail(folder, "/config.json is of format ", description.at("format").integer(), "; this version reads ",
             kFormat);
    }
    const SafeTensors read(std::move(tensors), folder + "/model.safetensors");
    const std::string& kind = description.at("model").string();
    const Json& sizes = description.at("config");
    return kind == "Ensemble" ? build_ensemble(sizes, description, read) : build(kind, sizes, description, read);
}

}  // namespace poco
