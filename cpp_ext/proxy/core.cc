#include "proxy/core.h"

#include "proxy/health.h"

namespace mesh::proxy {

double Core::now() const { return SecondsOf(loop->now()); }

std::optional<double> Core::LongestWait(Lack lack) const {
  if (lack == Lack::kRoom) return std::nullopt;
  return lack == Lack::kModel ? router->policy().unknown_model_wait_s : hold_s;
}

Status Core::IsFull() const {
  return {Code::kResourceExhausted, "the proxy of " + application + " is full: " + std::to_string(waiting.size()) +
                                        " requests wait for an endpoint; try again later"};
}

}  // namespace mesh::proxy
