#include "http/metrics_page.h"

#include <chrono>
#include <exception>
#include <utility>

#include "common/log.h"

namespace mesh::http {
namespace {

constexpr const char* kPrometheus = "text/plain; version=0.0.4; charset=utf-8";

Response Document(const std::function<Result<std::string>()>& text) {
  Status failure;
  try {
    Result<std::string> made = text();
    if (made.ok()) return Text(200, kPrometheus, std::move(made).value());
    failure = made.status();
  } catch (const std::exception& error) {
    failure = {Code::kInternal, error.what()};
  }
  log::Error("metrics not readable", {{"error", failure.ToString()}});
  return Text(500, kPlainText, "the metrics cannot be read; the log says why\n");
}

}  // namespace

Handler MetricsPage(std::function<Result<std::string>()> text) {
  return [text = std::move(text)](const std::shared_ptr<Exchange>& exchange) {
    const Request& request = exchange->request();
    if (request.path() != "/metrics") {
      return exchange->Respond(Text(404, kPlainText, "only /metrics is served here\n"));
    }
    if (request.method() != "GET" && !request.is_head()) {
      Response refused = Text(405, kPlainText, "only GET and HEAD are served\n");
      refused.headers.emplace_back("Allow", "GET, HEAD");
      return exchange->Respond(std::move(refused));
    }
    exchange->Respond(Document(text));
  };
}

std::unique_ptr<rpc::Server> NewMetricsServer(const std::string& host, std::function<Result<std::string>()> text) {
  rpc::ServerOptions options;
  options.host = host;
  options.max_connections = 64;
  options.max_message_bytes = 4096;
  options.max_metadata_bytes = 8192;
  options.handshake_timeout = std::chrono::seconds(5);
  options.clogged_timeout = std::chrono::seconds(5);
  auto server = std::make_unique<rpc::Server>(std::move(options));
  server->SetHttp(Serve(MetricsPage(std::move(text))));
  return server;
}

}  // namespace mesh::http
