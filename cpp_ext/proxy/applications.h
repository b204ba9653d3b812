// Which application a request is for. On the proxy's loop.
#pragma once

#include <optional>
#include <string>

#include "common/status.h"
#include "proxy/core.h"
#include "proxy/request_head.h"
#include "routing/policy.h"
#include "rpc/server.h"

namespace mesh::proxy {

class Applications {
 public:
  Applications() = default;
  Applications(const Applications&) = delete;
  Applications& operator=(const Applications&) = delete;
  virtual ~Applications() = default;

  // Whom the request is for; its head then has the model's own name. NOT_FOUND, or INVALID_ARGUMENT where several
  // applications offer that model, with the names that would do.
  [[nodiscard]] virtual Result<Core*> Of(const rpc::Metadata& metadata, RequestHead* head) = 0;
  // The application of all requests; null where each one has to say it.
  [[nodiscard]] virtual Core* only() = 0;
  // An encoded inference.RepositoryIndexResponse of all applications; none where one of them is to be asked.
  [[nodiscard]] virtual std::optional<std::string> Index(const rpc::Metadata& metadata) const = 0;
  [[nodiscard]] virtual bool has_working() const = 0;
  [[nodiscard]] virtual const routing::Policy& policy() const = 0;
};

class OneApplication final : public Applications {
 public:
  explicit OneApplication(Core& core) : core_(core) {}

  [[nodiscard]] Result<Core*> Of(const rpc::Metadata& /*metadata*/, RequestHead* /*head*/) override { return &core_; }
  [[nodiscard]] Core* only() override { return &core_; }
  [[nodiscard]] std::optional<std::string> Index(const rpc::Metadata& /*metadata*/) const override { return {}; }
  [[nodiscard]] bool has_working() const override { return core_.router->has_working(); }
  [[nodiscard]] const routing::Policy& policy() const override { return core_.router->policy(); }

 private:
  Core& core_;
};

}  // namespace mesh::proxy
