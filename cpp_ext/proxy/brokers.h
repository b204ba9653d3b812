// The brokers of one application as a proxy asks them, and the requests that wait there. On the proxy's loop.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/endpoint.h"
#include "proxy/route.h"
#include "rpc/client.h"

namespace mesh::proxy {

struct BrokerPeer {
  Endpoint endpoint;
  std::shared_ptr<rpc::Channel> channel;

  [[nodiscard]] bool Serves(const std::string& journal) const;
};

class Brokers {
 public:
  using Connect = std::function<std::shared_ptr<rpc::Channel>(const Endpoint&)>;
  // Something that waits at a broker.
  class Call {
   public:
    Call() = default;
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    virtual ~Call() = default;
  };

  explicit Brokers(Connect connect) : connect_(std::move(connect)) {}

  // Of all roles; those of brokers count.
  void SetEndpoints(const std::vector<Endpoint>& endpoints);
  // Whether a broker that takes requests now says that those for the deployment are to come through it only. Of several
  // brokers of one deployment the newest says it, as an update changes that.
  [[nodiscard]] bool Pulls(const std::string& deployment) const { return pulled_.count(deployment) > 0; }
  [[nodiscard]] const std::set<std::string, std::less<>>& pulled() const { return pulled_; }
  // One that takes requests for the deployment and serves all of `bound`; one of `left` only where there is no other.
  // Null: there is none.
  [[nodiscard]] std::shared_ptr<BrokerPeer> Taker(const std::string& deployment, const std::vector<std::string>& bound,
                                                  const std::set<std::string>& left, Chance* chance) const;
  // The one that serves the journal now; null: nobody does.
  [[nodiscard]] std::shared_ptr<BrokerPeer> Home(const std::string& journal) const;

  // Calls live here from their beginning to their end.
  void Enter(std::shared_ptr<Call> call);
  void Leave(Call* call);
  [[nodiscard]] std::size_t calls() const { return calls_.size(); }
  // Nobody is asked any more, and nothing waits. May be repeated.
  void Close();
  [[nodiscard]] bool closed() const { return closed_; }

 private:
  const Connect connect_;
  std::map<std::string, std::shared_ptr<BrokerPeer>> peers_;  // by id and address
  std::set<std::string, std::less<>> pulled_;
  std::map<Call*, std::shared_ptr<Call>> calls_;
  bool closed_ = false;
};

}  // namespace mesh::proxy
