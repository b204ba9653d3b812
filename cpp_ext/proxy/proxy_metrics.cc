#include "proxy/proxy_metrics.h"

#include <cstddef>

namespace mesh::proxy {
namespace {

metrics::Gauge& Endpoints(metrics::Registry& registry, const char* state) {
  return registry.GetGauge("mesh_proxy_endpoints", "Endpoints that the proxy knows.", {{"state", state}});
}

}  // namespace

ProxyMetrics::ProxyMetrics(metrics::Registry& given)
    : registry(given),
      attempts(given.GetCounter("mesh_proxy_attempts_total", "Requests sent to endpoints, repeated ones too.")),
      retries(given.GetCounter("mesh_proxy_retries_total", "Requests sent again after a failure.")),
      budget_refused(given.GetCounter("mesh_proxy_retries_refused_total", "Retries that the budget did not allow.")),
      hedges(given.GetCounter("mesh_proxy_hedges_total", "Requests sent to a second endpoint, as the first was slow.")),
      queue_full(given.GetCounter("mesh_proxy_queue_full_total", "Requests refused because too many waited.")),
      pulled(given.GetCounter("mesh_proxy_pulled_total", "Requests that were brought to a broker (dispatch: pull).")),
      ejections(given.GetCounter("mesh_proxy_ejections_total", "Endpoints left out because they failed.")),
      restored(given.GetCounter("mesh_proxy_restored_total", "Ejected endpoints that were taken back.")),
      waiting(given.GetGauge("mesh_proxy_waiting", "Requests that wait for an endpoint with room.")),
      in_flight(given.GetGauge("mesh_proxy_in_flight", "Requests that run on endpoints.")),
      endpoints_ready(Endpoints(given, "ready")),
      endpoints_draining(Endpoints(given, "draining")),
      endpoints_ejected(Endpoints(given, "ejected")),
      seconds_(
          given.GetHistogram("mesh_proxy_request_seconds", "Time of a request, from its last byte to its answer.")) {
  for (std::size_t code = 0; code < kCodes; ++code) {
    requests_[code] = &given.GetCounter("mesh_proxy_requests_total", "Requests by the code of their answer.",
                                        {{"code", CodeName(static_cast<Code>(code))}});
  }
}

ProxyMetrics::Side& ProxyMetrics::SideOf(const std::string& split, const std::string& side) {
  const std::pair<std::string, std::string> name(split, side);
  const auto known = sides_.find(name);
  if (known != sides_.end()) return known->second;
  if (sides_.size() >= metrics::Registry::kMaxSeries) sides_.clear();
  const metrics::Labels labels = {{"split", split}, {"side", side}};
  Side made{
      registry.GetCounter("mesh_proxy_split_requests_total",
                          "Requests by the side of a traffic split that they belong to.", labels),
      registry.GetCounter(
          "mesh_proxy_split_spared_total",
          "Requests that ran on another side: no endpoint of theirs worked, or their sequence was there.", labels)};
  return sides_.emplace(name, made).first->second;
}

ProxyMetrics::Shadow& ProxyMetrics::ShadowOf(const std::string& deployment) {
  const auto known = shadows_.find(deployment);
  if (known != shadows_.end()) return known->second;
  if (shadows_.size() >= metrics::Registry::kMaxSeries) shadows_.clear();
  const metrics::Labels labels = {{"deployment", deployment}};
  const auto not_sent = [&](const char* reason) -> metrics::Counter& {
    return registry.GetCounter("mesh_proxy_copies_not_sent_total",
                               "Copies of requests that were not sent: too many run, or no endpoint works.",
                               {{"deployment", deployment}, {"reason", reason}});
  };
  Shadow made{
      registry.GetCounter("mesh_proxy_copies_sent_total", "Copies of requests whose answers are dropped.", labels),
      not_sent("full"), not_sent("no_endpoint"),
      registry.GetCounter("mesh_proxy_copies_failed_total", "Copies of requests that were not answered well.", labels)};
  return shadows_.emplace(deployment, made).first->second;
}

void ProxyMetrics::Count(Code code, std::chrono::steady_clock::duration took) {
  const auto index = static_cast<std::size_t>(code);
  requests_[index < kCodes ? index : static_cast<std::size_t>(Code::kUnknown)]->Add();
  seconds_.Observe(std::chrono::duration<double>(took).count());
}

}  // namespace mesh::proxy
