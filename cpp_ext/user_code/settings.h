// A JSON object as the code of a deployment is given it.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "mesh/abi.h"

namespace mesh::user {

// Owns what its view refers to.
class SettingsText {
 public:
  // Empty text is an empty object. INVALID_ARGUMENT, with `what`, for anything that is no object.
  static Result<SettingsText> Read(std::string_view text, const char* what);

  // As long as this is neither changed nor moved.
  [[nodiscard]] MeshSettings view() const;

 private:
  struct Member {
    std::string name;
    std::string text;
    MeshValue value{};
  };
  std::string json_ = "{}";
  std::deque<Member> members_;
  mutable std::vector<MeshValue> values_;
};

}  // namespace mesh::user
