#include "stream/vocabulary.h"

#include <algorithm>
#include <utility>

#include "core/errors.h"

namespace poco {
namespace {

// FNV-1a of the units' names. Each ends with a byte that no UTF-8 has, so ("a", "bc") is not ("ab", "c").
uint64_t hash_of(const std::vector<Json>& units) {
    uint64_t hash = 14695981039346656037ull;
    const auto add = [&hash](unsigned char byte) { hash = (hash ^ byte) * 1099511628211ull; };
    for (const Json& unit : units) {
        for (const char c : unit.string()) add(static_cast<unsigned char>(c));
        add(255);
    }
    return hash;
}

}  // namespace

std::vector<Session> read_vocabulary(const std::string& text, const Json& description) {
    std::vector<Session> sessions;
    const Json* const rates = description.find("rate_hz");
    const Json entries = Json::parse(text, "the model's vocabulary");
    for (const Json& entry : entries.array()) {
        Session session;
        session.name = entry.at("name").string();
        const std::vector<Json>& units = entry.at("units").array();
        session.units = static_cast<int64_t>(units.size());
        session.units_hash = hash_of(units);
        if (session.units == 0) fail("session '", session.name, "' of the model has no units");
        const Json* const rate =
            rates != nullptr && rates->kind() == Json::Kind::object ? rates->find(session.name) : nullptr;
        if (rate != nullptr && rate->kind() == Json::Kind::number && rate->number() > 0)
            session.rate_hz = rate->number();
        sessions.push_back(std::move(session));
    }
    if (sessions.empty()) fail("the model knows no session");
    return sessions;
}

void read_normalisation(const SafeTensors& tensors, const std::string& prefix, Session& session) {
    session.mean = tensors.floats(prefix + "mean", {session.units});
    session.std = tensors.floats(prefix + "std", {session.units});
    for (const float deviation : session.std) {
        if (!(deviation > 0)) fail("session '", session.name, "': standard deviations must be positive");
    }
    const bool identity = std::all_of(session.mean.begin(), session.mean.end(), [](float m) { return m == 0; }) &&
                          std::all_of(session.std.begin(), session.std.end(), [](float s) { return s == 1; });
    session.normalised = tensors.flag(prefix + "normalised", true) || !identity;
}

}  // namespace poco
