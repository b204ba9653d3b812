#include "proxy/sides.h"

#include <string_view>

namespace mesh::proxy {
namespace {

std::string_view FirstValue(const rpc::Metadata& metadata, std::string_view name) {
  for (const auto& [key, value] : metadata) {
    if (key == name) return value;
  }
  return {};
}

}  // namespace

void ChooseSides(Core& core, const rpc::Metadata& metadata, RequestHead* head) {
  if (head->sided || !core.router->knows_traffic()) return;
  head->sided = true;
  if (core.router->traffic().empty()) return;
  head->sides = core.router->traffic().SidesOf(
      head->deployment, head->model, [&](std::string_view name) { return FirstValue(metadata, name); },
      [&core] { return core.chance(); }, head->sequence_name());
  for (const auto& [split, side] : head->sides) core.metrics.SideOf(split, side).requests.Add();
}

void ChooseShadow(Core& core, const rpc::Metadata& metadata, RequestHead* head) {
  if (!head->sequence.empty() || !FirstValue(metadata, kShadowKey).empty()) return;
  head->shadow = core.router->traffic().ShadowOf(head->deployment, head->model, [&core] { return core.chance(); });
}

std::string PulledDeployment(Core& core, const rpc::Metadata& metadata, RequestHead* head) {
  if (core.brokers == nullptr || core.brokers->pulled().empty()) return {};
  ChooseSides(core, metadata, head);
  const std::shared_ptr<Peer> peer = core.router->Candidate(*head, core.now());
  std::string deployment = head->deployment.empty() ? head->model : head->deployment;
  if (peer != nullptr) deployment = peer->endpoint.deployment;
  return core.brokers->Pulls(deployment) ? deployment : std::string();
}

bool CountSpare(Core& core, const routing::Sides& sides, const Endpoint& endpoint) {
  bool spare = false;
  for (const auto& [name, side] : sides) {
    const routing::Split* split = core.router->traffic().Find(name);
    if (split == nullptr) continue;
    if (split->PlaceOf(side, endpoint.deployment, endpoint.revision) == routing::Place::kOnSide) continue;
    core.metrics.SideOf(name, side).spared.Add();
    spare = true;
  }
  return spare;
}

}  // namespace mesh::proxy
