#include "common/status.h"

#include <gtest/gtest.h>

namespace mesh {
namespace {

TEST(StatusTest, NamesItsCode) {
  EXPECT_EQ(Status().ToString(), "OK");
  EXPECT_EQ(Status(Code::kNotFound, "model 'x' is not known").ToString(), "NOT_FOUND: model 'x' is not known");
}

TEST(ResultTest, HoldsAValueOrAStatus) {
  Result<int> value(7);
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(value.value(), 7);
  Result<int> error(Status(Code::kUnavailable, "gone"));
  EXPECT_FALSE(error.ok());
  EXPECT_EQ(error.status().code(), Code::kUnavailable);
}

}  // namespace
}  // namespace mesh
