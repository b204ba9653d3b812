// All applications of the mesh behind one proxy: each has a core of its own, so that nothing of one, be it failures,
// waiting requests or a retry budget, is another one's. On the proxy's loop; times are seconds of a steady clock.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/applications.h"
#include "proxy/health.h"
#include "routing/traffic.h"

namespace mesh::proxy {

// For metrics: what an application has now, or all together.
struct Totals {
  std::size_t waiting = 0;
  std::size_t running = 0;
  std::size_t ready = 0;
  std::size_t draining = 0;
  std::size_t ejected = 0;
  RouterCounts counts;  // at the edge also those of applications that were forgotten
};
Totals TotalsOf(const Core& core);

class Edge final : public Applications {
 public:
  // An application without endpoints and without anything to do is forgotten after so long: whatever its last calls
  // left behind has long ended then.
  static constexpr double kForgetS = 600.0;

  // `equip` gives the core of a new application what it needs of the process: its loop and its router.
  Edge(metrics::Registry& registry, routing::Policy policy, std::function<void(Core*)> equip);

  void SetEndpoints(const std::vector<Endpoint>& endpoints, double now);
  // Of one application, by its full name.
  void SetTraffic(const std::string& application, const routing::TrafficRecord& record);
  // True once SetEndpoints was called.
  [[nodiscard]] bool listed() const { return listed_; }

  [[nodiscard]] Result<Core*> Of(const rpc::Metadata& metadata, RequestHead* head) override;
  [[nodiscard]] Core* only() override { return nullptr; }
  [[nodiscard]] std::optional<std::string> Index(const rpc::Metadata& metadata) const override;
  [[nodiscard]] bool has_working() const override;
  [[nodiscard]] const routing::Policy& policy() const override { return policy_; }

  // Requests that wait may find a peer now.
  void Changed();
  [[nodiscard]] Totals Sum() const;
  // Nothing is asked of peers any more, and no timer runs.
  void Stop();
  // Closes all channels, after the loop has ended.
  void Close();

 private:
  struct Served {
    Served(metrics::Registry& registry, const routing::Policy& policy) : core(registry, policy) {}

    Core core;
    std::unique_ptr<Health> health;
    bool offered = true;        // it has endpoints
    double unused_since = 0.0;  // while it has none
  };

  Served& ServedOf(const std::string& application);
  void Forget(double now);
  [[nodiscard]] Result<Core*> Named(const std::string& application, RequestHead* head);
  [[nodiscard]] std::string OwnName(const std::string& application, const std::string& model) const;
  [[nodiscard]] bool Offers(const std::string& model, const std::string& application) const;
  [[nodiscard]] Status Unknown(const std::string& model) const;

  metrics::Registry& registry_;
  const routing::Policy policy_;
  const std::function<void(Core*)> equip_;
  std::map<std::string, std::unique_ptr<Served>> served_;     // by "namespace/application"
  std::map<std::string, routing::TrafficRecord> traffic_;     // the same
  std::map<std::string, std::vector<std::string>> by_model_;  // applications by their models' own names
  RouterCounts forgotten_;
  bool listed_ = false;
  bool stopped_ = false;
};

}  // namespace mesh::proxy
