#include "stream/ensemble.h"

#include <utility>

#include "core/errors.h"

namespace poco {
namespace {

class EnsembleForecaster : public Forecaster {
public:
    EnsembleForecaster(std::vector<std::unique_ptr<Forecaster>> members, size_t size)
        : members_(std::move(members)), one_(size) {}

    void forecast(const float* x, const uint8_t* seen, float* forecast) override {
        members_[0]->forecast(x, seen, forecast);
        for (size_t k = 1; k < members_.size(); ++k) {
            members_[k]->forecast(x, seen, one_.data());
            for (size_t i = 0; i < one_.size(); ++i) forecast[i] += one_[i];
        }
        const auto count = static_cast<float>(members_.size());
        for (size_t i = 0; i < one_.size(); ++i) forecast[i] /= count;
    }

private:
    std::vector<std::unique_ptr<Forecaster>> members_;
    Floats one_;  // a member's forecast [N, H]
};

bool alike(const Session& a, const Session& b) {
    return a.name == b.name && a.units == b.units && a.units_hash == b.units_hash && a.mean == b.mean && a.std == b.std;
}

class Ensemble : public Model {
public:
    explicit Ensemble(std::vector<std::shared_ptr<const Model>> members) : members_(std::move(members)) {
        if (members_.empty()) fail("an ensemble needs at least one member");
        context_ = members_[0]->context();
        horizon_ = members_[0]->horizon();
        sessions_ = members_[0]->sessions();
        for (const auto& member : members_) {
            const bool same = member->context() == context_ && member->horizon() == horizon_ &&
                              member->sessions().size() == sessions_.size();
            if (!same) fail("members of an ensemble must know the same sessions and have the same sizes");
            for (size_t i = 0; i < sessions_.size(); ++i) {
                if (alike(member->sessions()[i], sessions_[i])) continue;
                fail("members of an ensemble must know session '", sessions_[i].name,
                     "' with the same units in their order, and the same normalisation");
            }
        }
    }

    std::unique_ptr<Forecaster> forecaster(int64_t session, const Arithmetic& arithmetic) const override {
        std::vector<std::unique_ptr<Forecaster>> found;
        for (const auto& member : members_) found.push_back(member->forecaster(session, arithmetic));
        const int64_t size = sessions_[static_cast<size_t>(session)].units * horizon_;
        return std::make_unique<EnsembleForecaster>(std::move(found), static_cast<size_t>(size));
    }

private:
    std::vector<std::shared_ptr<const Model>> members_;
};

}  // namespace

std::shared_ptr<const Model> ensemble_of(std::vector<std::shared_ptr<const Model>> members) {
    return std::make_shared<Ensemble>(std::move(members));
}

}  // namespace poco
