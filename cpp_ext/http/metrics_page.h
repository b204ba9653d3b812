// Prometheus metrics as an HTTP page.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/status.h"
#include "http/exchange.h"
#include "rpc/server.h"

namespace mesh::http {

// Answers GET and HEAD /metrics with the text that `text` makes, on the connection's loop; everything else is 404 or
// 405, and a failure 500, logged.
Handler MetricsPage(std::function<Result<std::string>()> text);

// A server of that page alone, at any free port of the host, with limits that are enough for scrapers.
std::unique_ptr<rpc::Server> NewMetricsServer(const std::string& host, std::function<Result<std::string>()> text);

}  // namespace mesh::http
