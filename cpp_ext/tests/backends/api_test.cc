#include "backends/common/api.h"

#include <gtest/gtest.h>

namespace mesh::backend {
namespace {

TEST(ApiTest, SaysWhichFunctionTheProcessLacks) {
  // This test program is no Triton server.
  const Status status = BindApi(reinterpret_cast<const void*>(&BindApi));
  EXPECT_EQ(status.code(), Code::kUnimplemented);
  EXPECT_NE(status.message().find("has no TRITONSERVER_ErrorNew; this backend needs Triton"), std::string::npos)
      << status.message();
}

}  // namespace
}  // namespace mesh::backend
