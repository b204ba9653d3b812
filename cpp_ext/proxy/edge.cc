#include "proxy/edge.h"

#include <algorithm>
#include <protozero/pbf_writer.hpp>
#include <set>
#include <utility>

namespace mesh::proxy {
namespace {

constexpr std::size_t kShown = 10;  // names in an error

// Fields of inference.RepositoryIndexResponse and of its ModelIndex.
enum : protozero::pbf_tag_type { kModels = 1 };
enum : protozero::pbf_tag_type { kName = 1, kVersion = 2, kState = 3 };

std::string_view ApplicationOf(const rpc::Metadata& metadata) {
  for (const auto& [key, value] : metadata) {
    if (key == kApplicationKey) return value;
  }
  return {};
}

// The first two parts of "namespace/application/model"; empty where it has fewer.
std::string_view Owner(std::string_view model) {
  const std::size_t first = model.find('/');
  if (first == std::string_view::npos) return {};
  const std::size_t second = model.find('/', first + 1);
  return second == std::string_view::npos ? std::string_view() : model.substr(0, second);
}

bool StartsWith(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

std::string Listed(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t index = 0; index < std::min(names.size(), kShown); ++index) {
    text += (index == 0 ? "" : ", ") + names[index];
  }
  return names.size() > kShown ? text + ", ..." : text;
}

}  // namespace

Edge::Edge(metrics::Registry& registry, routing::Policy policy, std::function<void(Core*)> equip)
    : registry_(registry), policy_(std::move(policy)), equip_(std::move(equip)) {}

// ------------------------------------------------------------------------------------------------ what etcd says

Edge::Served& Edge::ServedOf(const std::string& application) {
  std::unique_ptr<Served>& served = served_[application];
  if (served != nullptr) return *served;
  served = std::make_unique<Served>(registry_, policy_);
  Core& core = served->core;
  core.application = application;
  core.own_name = [this, application](const std::string& model) { return OwnName(application, model); };
  equip_(&core);
  served->health = std::make_unique<Health>(*core.router, *core.loop);
  served->health->Start();
  const auto known = traffic_.find(application);
  core.router->SetTraffic(known == traffic_.end() ? routing::Traffic() : routing::Traffic(known->second.splits));
  return *served;
}

void Edge::SetEndpoints(const std::vector<Endpoint>& endpoints, double now) {
  if (stopped_) return;
  listed_ = true;
  std::map<std::string, std::vector<Endpoint>> by_owner;
  std::map<std::string, std::vector<Endpoint>> brokers;
  std::set<std::pair<std::string, std::string>> with_replicas;
  std::map<std::string, std::set<std::string>> by_model;
  for (const Endpoint& endpoint : endpoints) {
    const std::string owner = endpoint.owner.Full();
    if (endpoint.role == kBrokerRole) {
      brokers[owner].push_back(endpoint);
      continue;
    }
    by_owner[owner].push_back(endpoint);
    with_replicas.insert({owner, endpoint.deployment});
    for (const EndpointModel& model : endpoint.models) by_model[model.name].insert(owner);
  }
  for (const auto& [owner, own] : brokers) {
    for (const Endpoint& broker : own) {
      for (const std::string& deployment : broker.pulled) {
        if (with_replicas.count({owner, deployment}) > 0) continue;
        by_model[deployment].insert(owner);  // without a replica it is asked by its own name
        by_owner[owner];
      }
    }
  }
  by_model_.clear();
  for (const auto& [model, owners] : by_model) by_model_[model].assign(owners.begin(), owners.end());
  for (const auto& [owner, own] : by_owner) ServedOf(owner).core.router->SetEndpoints(own, now);
  for (auto& [owner, served] : served_) {
    served->core.brokers->SetEndpoints(brokers[owner]);
    const bool offered = by_owner.count(owner) > 0;
    if (!offered && served->offered) {
      served->core.router->SetEndpoints({}, now);
      served->unused_since = now;
    }
    served->offered = offered;
  }
  Forget(now);
}

void Edge::SetTraffic(const std::string& application, const routing::TrafficRecord& record) {
  if (stopped_) return;
  if (record.splits.empty()) {
    traffic_.erase(application);
  } else {
    traffic_[application] = record;
  }
  const auto found = served_.find(application);
  if (found != served_.end()) found->second->core.router->SetTraffic(routing::Traffic(record.splits));
}

void Edge::Forget(double now) {
  for (auto entry = served_.begin(); entry != served_.end();) {
    Served& served = *entry->second;
    Core& core = served.core;
    const bool idle = core.waiting.size() == 0 && core.pausing.empty() && core.copies.running == 0 &&
                      core.brokers->calls() == 0 && core.router->running() == 0;
    if (served.offered || !idle || now - served.unused_since < kForgetS) {
      ++entry;
      continue;
    }
    forgotten_.ejections += core.router->counts().ejections;
    forgotten_.restored += core.router->counts().restored;
    served.health->Stop();
    core.router->Close();
    core.brokers->Close();
    entry = served_.erase(entry);
  }
}

// ------------------------------------------------------------------------------------------------ whom it is for

bool Edge::Offers(const std::string& model, const std::string& application) const {
  const auto found = by_model_.find(model);
  return found != by_model_.end() &&
         std::find(found->second.begin(), found->second.end(), application) != found->second.end();
}

// A full name is nobody else's; then a model's own name, slashes and all, wins over "application/model".
std::string Edge::OwnName(const std::string& application, const std::string& model) const {
  if (StartsWith(model, application + '/')) return model.substr(application.size() + 1);
  if (Offers(model, application)) return model;
  const std::string name = application.substr(application.find('/') + 1) + '/';
  return StartsWith(model, name) ? model.substr(name.size()) : model;
}

Result<Core*> Edge::Named(const std::string& application, RequestHead* head) {
  Core& core = served_.at(application)->core;
  if (std::string own = OwnName(application, head->model); own != head->model) head->Rename(std::move(own));
  return &core;
}

Result<Core*> Edge::Of(const rpc::Metadata& metadata, RequestHead* head) {
  if (!listed_) return Status(Code::kUnavailable, "this proxy has not heard from etcd yet which models there are");
  if (const std::string named(ApplicationOf(metadata)); !named.empty()) {
    if (served_.count(named) > 0) return Named(named, head);
    return Status(Code::kNotFound, "no application " + named + " (" + kApplicationKey +
                                       ": namespace/application) has endpoints that a proxy asks");
  }
  if (head->model.empty()) {
    return Status(Code::kInvalidArgument, std::string("this proxy is for many applications: name a model, or the ") +
                                              "application in the metadata " + kApplicationKey);
  }
  if (const std::string owner(Owner(head->model)); served_.count(owner) > 0) return Named(owner, head);
  std::vector<std::string> owners;
  if (const auto own = by_model_.find(head->model); own != by_model_.end()) owners = own->second;
  if (const std::size_t slash = head->model.find('/'); owners.empty() && slash != std::string::npos) {
    const std::string name = head->model.substr(0, slash);
    const auto found = by_model_.find(head->model.substr(slash + 1));
    if (found != by_model_.end()) {
      std::copy_if(found->second.begin(), found->second.end(), std::back_inserter(owners),
                   [&](const std::string& owner) { return owner.substr(owner.find('/') + 1) == name; });
    }
  }
  if (owners.empty()) return Unknown(head->model);
  if (owners.size() == 1) return Named(owners.front(), head);
  for (std::string& owner : owners) owner += '/' + OwnName(owner, head->model);
  return Status(Code::kInvalidArgument,
                "the model " + head->model + " is served by several applications; ask for one of " + Listed(owners));
}

Status Edge::Unknown(const std::string& model) const {
  std::vector<std::string> names;
  for (const auto& [name, owners] : by_model_) {
    for (const std::string& owner : owners) names.push_back(owner + '/' + name);
  }
  std::sort(names.begin(), names.end());
  return {Code::kNotFound,
          "no application offers the model " + model + (names.empty() ? "" : " (there are: " + Listed(names) + ")")};
}

std::optional<std::string> Edge::Index(const rpc::Metadata& metadata) const {
  if (!ApplicationOf(metadata).empty()) return std::nullopt;
  std::string answer;
  protozero::pbf_writer writer(answer);
  for (const auto& [name, owners] : by_model_) {
    for (const std::string& owner : owners) {
      protozero::pbf_writer model(writer, kModels);
      model.add_string(kName, owner + '/' + name);
      const std::vector<std::string> offered = served_.at(owner)->core.router->Offered("");
      const bool ready = std::find(offered.begin(), offered.end(), name) != offered.end();
      model.add_string(kState, ready ? "READY" : "UNAVAILABLE");
    }
  }
  return answer;
}

bool Edge::has_working() const {
  return std::any_of(served_.begin(), served_.end(),
                     [](const auto& entry) { return entry.second->core.router->has_working(); });
}

// ------------------------------------------------------------------------------------------------------- the process

void Edge::Changed() {
  for (const auto& [name, served] : served_) {
    for (const auto& paused : std::exchange(served->core.pausing, {})) paused->TryAgain();
    served->core.waiting.Serve();
  }
}

Totals TotalsOf(const Core& core) {
  const Router& router = *core.router;
  return {core.waiting.size(), router.running(), router.ready(), router.draining(), router.ejected(), router.counts()};
}

Totals Edge::Sum() const {
  Totals sum;
  sum.counts = forgotten_;
  for (const auto& [name, served] : served_) {
    const Totals own = TotalsOf(served->core);
    sum.waiting += own.waiting;
    sum.running += own.running;
    sum.ready += own.ready;
    sum.draining += own.draining;
    sum.ejected += own.ejected;
    sum.counts.ejections += own.counts.ejections;
    sum.counts.restored += own.counts.restored;
  }
  return sum;
}

void Edge::Stop() {
  stopped_ = true;
  for (const auto& [name, served] : served_) served->health->Stop();
}

void Edge::Close() {
  for (const auto& [name, served] : served_) {
    served->core.router->Close();
    served->core.brokers->Close();
  }
}

}  // namespace mesh::proxy
