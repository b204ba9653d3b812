// A process that registers one endpoint, for tests of what happens to it.
//
// Argument: {"endpoints": [..], "key": .., "value": .., "ttl_s": .., "user": .., "password_file": .., "ca": .., "cert":
// .., "private_key": ..}. Commands on standard input, one per line: "update VALUE", "withdraw", "status"; each is
// answered with one JSON line {"lease": .., "registered": .., "problem": ..}. The end of the input withdraws.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "common/json.h"
#include "registry/registrar.h"

namespace {

void Report(const mesh::registry::Registrar& registrar) {
  const nlohmann::json report = {
      {"lease", registrar.lease()}, {"registered", registrar.registered()}, {"problem", registrar.problem()}};
  std::cout << mesh::json::Dump(report) << std::endl;
}

mesh::registry::Options ReadOptions(mesh::json::Fields& in) {
  mesh::registry::Options options;
  options.endpoints = in.Texts("endpoints");
  options.ttl_s = static_cast<int>(in.Int("ttl_s"));
  options.user = in.Text("user");
  options.password_file = in.Text("password_file");
  if (!in.Text("ca").empty()) {
    options.tls = mesh::rpc::TlsOptions{in.Text("cert"), in.Text("private_key"), in.Text("ca")};
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const auto config = mesh::json::Parse(argc > 1 ? argv[1] : "", "the argument");
  if (!config.ok()) {
    std::cerr << config.status().ToString() << std::endl;
    return 2;
  }
  mesh::json::Fields in(config.value());
  mesh::registry::Registrar registrar(ReadOptions(in), in.Text("key"), in.Text("value"));
  if (!in.status().ok()) {
    std::cerr << in.status().ToString() << std::endl;
    return 2;
  }
  registrar.Start();
  for (std::string line; std::getline(std::cin, line);) {
    if (line.rfind("update ", 0) == 0) registrar.Update(line.substr(7));
    if (line == "withdraw") registrar.Withdraw();
    Report(registrar);
  }
  registrar.Withdraw();
  return 0;
}
