// Who may write an endpoint's key. Pure.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "registry/etcd_wire.h"

namespace mesh::registry {

// "generation" of an Endpoint in canonical JSON: a string, or a number; 0 when it is absent or the text is no JSON.
std::int64_t GenerationOf(std::string_view endpoint_json);

// What one process has written and may therefore overwrite.
class Ownership {
 public:
  void Wrote(const std::string& value);
  void Held(std::int64_t lease) { last_lease_ = lease; }

  // Empty: `value` may replace `existing`. Else why not.
  [[nodiscard]] std::string WhyNot(const etcd::KeyValue& existing, std::string_view value) const;

 private:
  std::deque<std::string> written_;  // newest last, few
  std::int64_t last_lease_ = 0;
};

}  // namespace mesh::registry
