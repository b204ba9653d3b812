#include "ingress/rest_route.h"

#include <gtest/gtest.h>

#include <string>

namespace mesh::ingress {
namespace {

using Kind = Route::Kind;
using Action = Route::Action;

Route Found(const std::string& path) {
  const std::optional<Route> route = FindRoute(path);
  EXPECT_TRUE(route.has_value()) << path;
  return route.value_or(Route());
}

TEST(RestRoute, Server) {
  EXPECT_EQ(Found("/v2").kind, Kind::kServerMetadata);
  EXPECT_EQ(Found("/v2/health/live").kind, Kind::kServerLive);
  EXPECT_EQ(Found("/v2/health/ready").kind, Kind::kServerReady);
  EXPECT_EQ(Found("/v2/models/stats").kind, Kind::kModelStatistics);
  EXPECT_EQ(Found("/v2/logging").kind, Kind::kLogSettings);
  EXPECT_EQ(Found("/v2/trace/setting").kind, Kind::kTraceSetting);
  EXPECT_EQ(Found("/metrics").kind, Kind::kMetrics);
}

TEST(RestRoute, Models) {
  const Route infer = Found("/v2/models/m/versions/12/infer");
  EXPECT_EQ(infer.kind, Kind::kModelInfer);
  EXPECT_EQ(infer.model, "m");
  EXPECT_EQ(infer.version, "12");
  EXPECT_EQ(Found("/v2/models/m").kind, Kind::kModelMetadata);
  EXPECT_EQ(Found("/v2/models/stats/infer").model, "stats");
  EXPECT_EQ(Found("/v2/models/m/trace/setting").kind, Kind::kTraceSetting);
  EXPECT_EQ(Found("/v2/models/a%20b%2fc%zz%4/ready").model, "a b/c%zz%4");
}

TEST(RestRoute, RepositoryAndSharedMemory) {
  EXPECT_EQ(Found("/v2/repository/index").kind, Kind::kRepositoryIndex);
  EXPECT_EQ(Found("/v2/repository/r/index").repository, "r");
  EXPECT_EQ(Found("/v2/repository/models/m/load").kind, Kind::kRepositoryModelLoad);
  EXPECT_EQ(Found("/v2/repository/r/models/m/unload").model, "m");
  EXPECT_EQ(Found("/v2/systemsharedmemory/status").action, Action::kStatus);
  const Route region = Found("/v2/systemsharedmemory/region/r/register");
  EXPECT_EQ(region.region, "r");
  EXPECT_EQ(region.action, Action::kRegister);
  EXPECT_EQ(Found("/v2/cudasharedmemory/unregister").action, Action::kUnregister);
}

TEST(RestRoute, WhatIsNone) {
  for (const char* path : {"",
                           "*",
                           "v2",
                           "/",
                           "/v2/",
                           "/v2x",
                           "/V2",
                           "/v2/health",
                           "/v2/health/live/",
                           "/v2/models",
                           "/v2/models/",
                           "/v2/models//ready",
                           "/v2/models/m/",
                           "/v2/models/m/versions",
                           "/v2/models/m/versions/x",
                           "/v2/models/m/nope",
                           "/v2/models/m/infer/x",
                           "/v2/models/m/versions/1/trace/setting",
                           "/v2/models/m/trace",
                           "/v2/repository",
                           "/v2/repository/models/load",
                           "/v2/systemsharedmemory",
                           "/v2/systemsharedmemory/region//status",
                           "/v2/systemsharedmemory/region/r",
                           "/v2/cudasharedmemory/nope",
                           "/metrics/",
                           "/metrics/v2",
                           "/v2/logging/x"}) {
    EXPECT_FALSE(FindRoute(path).has_value()) << path;
  }
}

}  // namespace
}  // namespace mesh::ingress
