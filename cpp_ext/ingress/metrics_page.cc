#include "ingress/metrics_page.h"

#include <chrono>
#include <exception>
#include <utility>

#include "ingress/failure.h"

namespace mesh::ingress {
namespace {

constexpr const char* kPrometheus = "text/plain; version=0.0.4; charset=utf-8";

http::Response Document(const std::function<Result<std::string>()>& text) {
  Status failure;
  try {
    Result<std::string> made = text();
    if (made.ok()) return http::Text(200, kPrometheus, std::move(made).value());
    failure = made.status();
  } catch (const std::exception& error) {
    failure = {Code::kInternal, error.what()};
  }
  return http::Text(500, http::kPlainText, InternalFailure("metrics", failure.ToString()).message() + "\n");
}

}  // namespace

http::Handler MetricsPage(std::function<Result<std::string>()> text) {
  return [text = std::move(text)](const std::shared_ptr<http::Exchange>& exchange) {
    const http::Request& request = exchange->request();
    if (request.path() != "/metrics") {
      return exchange->Respond(http::Text(404, http::kPlainText, "only /metrics is served here\n"));
    }
    if (request.method() != "GET" && !request.is_head()) {
      http::Response refused = http::Text(405, http::kPlainText, "only GET and HEAD are served\n");
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
  server->SetHttp(http::Serve(MetricsPage(std::move(text))));
  return server;
}

}  // namespace mesh::ingress
