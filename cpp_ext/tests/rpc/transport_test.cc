#include "rpc/transport.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

namespace mesh::rpc {
namespace {

// A folder with a key and the certificate that it signed itself.
class Certificate {
 public:
  Certificate() {
    std::string pattern = testing::TempDir() + "tlsXXXXXX";
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(EVP_EC_gen("P-256"), EVP_PKEY_free);
    const std::unique_ptr<X509, decltype(&X509_free)> cert(X509_new(), X509_free);
    X509_set_version(cert.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert.get()), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert.get()), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert.get()), 3600);
    X509_set_pubkey(cert.get(), key.get());
    EXPECT_GT(X509_sign(cert.get(), key.get(), EVP_sha256()), 0);
    Write("key", [&](FILE* file) { PEM_write_PrivateKey(file, key.get(), nullptr, nullptr, 0, nullptr, nullptr); });
    Write("cert", [&](FILE* file) { PEM_write_X509(file, cert.get()); });
  }
  ~Certificate() { std::filesystem::remove_all(folder_); }
  Certificate(const Certificate&) = delete;
  Certificate& operator=(const Certificate&) = delete;
  [[nodiscard]] TlsOptions options() const { return {folder_ + "/cert", folder_ + "/key", ""}; }

 private:
  template <typename Content>
  void Write(const std::string& name, Content content) const {
    FILE* file = std::fopen((folder_ + "/" + name).c_str(), "w");
    ASSERT_NE(file, nullptr);
    content(file);
    std::fclose(file);
  }

  std::string folder_;
};

// A server's transport, and a client of OpenSSL's own at the other end.
class TlsPair {
 public:
  TlsPair() {
    const Certificate certificate;
    auto context = TlsContext::Server(certificate.options());
    EXPECT_TRUE(context.ok()) << context.status().ToString();
    std::array<int, 2> fds{};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds.data()), 0);
    client_fd_ = fds[1];
    server_ = Transport::Accepted(fds[0], context.value());
    client_context_.reset(SSL_CTX_new(TLS_client_method()));
    client_.reset(SSL_new(client_context_.get()));
    const std::array<unsigned char, 3> alpn{2, 'h', '2'};
    SSL_set_alpn_protos(client_.get(), alpn.data(), alpn.size());
    SSL_set_fd(client_.get(), client_fd_);
    SSL_set_connect_state(client_.get());
    for (int i = 0; i < 10; ++i) {
      SSL_do_handshake(client_.get());
      server_->Handshake();
    }
    EXPECT_EQ(server_->Handshake(), Transport::HandshakeState::kDone) << server_->error();
  }
  ~TlsPair() { close(client_fd_); }
  TlsPair(const TlsPair&) = delete;
  TlsPair& operator=(const TlsPair&) = delete;

  [[nodiscard]] Transport& server() const { return *server_; }
  [[nodiscard]] SSL* client() const { return client_.get(); }

 private:
  int client_fd_ = -1;
  std::unique_ptr<Transport> server_;
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> client_context_{nullptr, SSL_CTX_free};
  std::unique_ptr<SSL, decltype(&SSL_free)> client_{nullptr, SSL_free};
};

TEST(Transport, GoesOnAfterAChangeOfKeys) {
  const TlsPair pair;
  std::array<char, 100> buffer;
  EXPECT_EQ(pair.server().Read(buffer.data(), buffer.size()).state, Transport::IoState::kBlocked);
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(SSL_key_update(pair.client(), SSL_KEY_UPDATE_REQUESTED), 1);
    ASSERT_EQ(SSL_write(pair.client(), "x", 1), 1);
    const Transport::Io io = pair.server().Read(buffer.data(), buffer.size());
    EXPECT_EQ(io.state, Transport::IoState::kOk) << pair.server().error();
    EXPECT_EQ(io.bytes, 1U);
    EXPECT_EQ(pair.server().Interest(false), std::uint32_t{EPOLLIN});
    OutputQueue answer;
    answer.Append("yes");
    EXPECT_EQ(pair.server().Write(&answer).state, Transport::IoState::kOk) << pair.server().error();
    EXPECT_EQ(SSL_read(pair.client(), buffer.data(), buffer.size()), 3);
  }
}

TEST(Transport, AFullTlsSocketIsWaitedFor) {
  const TlsPair pair;
  OutputQueue answer;
  const Slice large = Slice::Own(std::string(8 << 20, 'a'));
  answer.Append(large, large.view());
  EXPECT_EQ(pair.server().Write(&answer).state, Transport::IoState::kBlocked);
  EXPECT_EQ(pair.server().Interest(true), std::uint32_t{EPOLLIN} | std::uint32_t{EPOLLOUT});
}

TEST(Transport, WhatAPlainSocketWaitsFor) {
  std::array<int, 2> fds{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds.data()), 0);
  const auto plain = Transport::Accepted(fds[0], nullptr);
  EXPECT_EQ(plain->Interest(false), std::uint32_t{EPOLLIN});
  EXPECT_EQ(plain->Interest(true), std::uint32_t{EPOLLIN} | std::uint32_t{EPOLLOUT});
  close(fds[1]);
}

}  // namespace
}  // namespace mesh::rpc
