#include "http/request_parser.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "common/large_block.h"
#include "common/poll.h"

namespace mesh::http {
namespace {

using State = RequestParser::State;

constexpr RequestParser::Limits kLimits{1000, 1000};

struct Parsed {
  std::vector<Request> requests;
  RequestParser::Failure failure;
};

// In pieces of `step` bytes.
Parsed Parse(std::string_view bytes, std::size_t step, RequestParser::Limits limits = kLimits) {
  Parsed parsed;
  RequestParser parser(limits, nullptr);
  while (!bytes.empty()) {
    std::string piece(bytes.substr(0, step));  // of its own, so that reads beyond it are found
    bytes.remove_prefix(piece.size());
    std::string_view left = piece;
    while (!left.empty()) {
      left.remove_prefix(parser.Consume(left));
      if (parser.state() == State::kFailed) {
        parsed.failure = parser.failure();
        return parsed;
      }
      if (parser.state() == State::kComplete) parsed.requests.push_back(parser.Take());
    }
  }
  return parsed;
}

const char kThree[] =
    "POST /v2/models/m/infer?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-Empty:\r\n\r\nhello"
    "\r\nGET http://host:80/second HTTP/1.0\r\n\r\n"
    "PUT /third HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n";

void ExpectThree(const Parsed& parsed) {
  ASSERT_EQ(parsed.requests.size(), 3U) << parsed.failure.message;
  const Request& first = parsed.requests[0];
  EXPECT_EQ(first.method(), "POST");
  EXPECT_EQ(first.path(), "/v2/models/m/infer");
  EXPECT_EQ(first.query(), "a=b");
  EXPECT_EQ(first.Header("hOST"), "x");
  EXPECT_EQ(first.Header("x-empty"), "");
  EXPECT_EQ(first.Header("x"), std::nullopt);
  EXPECT_EQ(first.body().view(), "hello");
  EXPECT_TRUE(first.keep_alive());
  const Request& second = parsed.requests[1];
  EXPECT_EQ(second.path(), "/second");
  EXPECT_TRUE(second.is_http10());
  EXPECT_FALSE(second.keep_alive());
  EXPECT_TRUE(second.body().empty());
  const Request& third = parsed.requests[2];
  EXPECT_EQ(third.body().view(), "abcde");
  EXPECT_EQ(third.Header("trailer"), std::nullopt) << "trailers are not headers";
}

TEST(RequestParser, PiecesOfEverySize) {
  for (std::size_t step = 1; step < sizeof kThree; ++step) ExpectThree(Parse(kThree, step));
}

TEST(RequestParser, SplitAtEveryByte) {
  const std::string_view all(kThree);
  for (std::size_t at = 1; at < all.size(); ++at) {
    RequestParser parser(kLimits, nullptr);
    std::size_t complete = 0;
    for (std::string_view left : {all.substr(0, at), all.substr(at)}) {
      while (!left.empty()) {
        left.remove_prefix(parser.Consume(left));
        ASSERT_NE(parser.state(), State::kFailed) << at;
        if (parser.state() != State::kComplete) continue;
        ++complete;
        static_cast<void>(parser.Take());
      }
    }
    EXPECT_EQ(complete, 3U) << at;
  }
}

TEST(RequestParser, WhatIsNoRequestIsRefused) {
  const std::vector<std::pair<std::string, int>> cases{
      {"nonsense\r\n\r\n", 400},
      {"GET /\x01 HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\n\r\n", 505},
      {"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\na b: c\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400},
      {"POST / HTTP/1.1\r\nExpect: miracles\r\n\r\n", 417},
      {"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + std::string(1001, 'x'), 413},
      {"GET /" + std::string(1001, 'x'), 431},
      {"GET / HTTP/1.1\r\nA: " + std::string(1001, 'x'), 431},
      {"GET / HTTP/1.1\r\n" + std::string(1001, 'x'), 431},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + std::string(1001, 'x'), 431},
  };
  for (const auto& [bytes, status] : cases) {
    for (const std::size_t step : {std::size_t{1}, std::size_t{7}, bytes.size()}) {
      const Parsed parsed = Parse(bytes, step);
      EXPECT_EQ(parsed.failure.status, status) << bytes.substr(0, 100) << " in steps of " << step;
      EXPECT_FALSE(parsed.failure.message.empty());
      EXPECT_TRUE(parsed.requests.empty());
    }
  }
}

TEST(RequestParser, ManyHeadersCountMoreThanTheirText) {
  std::string many = "GET / HTTP/1.1\r\n";
  for (int i = 0; i < 100; ++i) many += "a:\r\n";
  EXPECT_EQ(Parse(many, many.size()).failure.status, 431);
}

TEST(RequestParser, LongBodiesAreReceivedInTheirPlace) {
  constexpr std::size_t kSize = 3UL << 20;
  std::string body(kSize, '\0');
  std::mt19937 random(1);
  for (char& byte : body) byte = static_cast<char>(random());
  RequestParser parser({1000, kSize}, nullptr);
  const std::string head = "POST / HTTP/1.1\r\nContent-Length: " + std::to_string(kSize) + "\r\n\r\n";
  EXPECT_EQ(parser.BodySpace().size, 0U) << "nothing has come yet";
  parser.Consume(head);
  std::size_t direct = 0;
  std::string_view left = body;
  while (!left.empty()) {
    const RequestParser::Space space = parser.BodySpace();
    const auto size = std::min<std::size_t>({left.size(), 100000, space.size == 0 ? left.size() : space.size});
    if (space.size == 0) {
      parser.Consume(left.substr(0, size));
    } else {
      std::memcpy(space.data, left.data(), size);
      direct += size;
      EXPECT_EQ(parser.Consume({space.data, size}), size);
    }
    left.remove_prefix(size);
  }
  ASSERT_EQ(parser.state(), State::kComplete);
  EXPECT_EQ(parser.Take().body().view(), body);
  EXPECT_GT(direct, kSize * 9 / 10);
}

TEST(RequestParser, ALengthThatLiesCostsLittle) {
  // Memory that waits for its next use would be taken, up to half of the budget.
  SetLargeBlockWait(std::chrono::milliseconds(0));
  ASSERT_TRUE(
      PollUntil(std::chrono::steady_clock::now() + std::chrono::seconds(60), [] { return IdleLargeBytes() == 0; }));
  const auto budget = std::make_shared<rpc::ReceiveBudget>(8UL << 20);
  RequestParser parser({1000, 1UL << 30}, budget.get());
  parser.Consume("POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\nabc");
  EXPECT_GT(parser.BodySpace().size, 0U);
  EXPECT_LE(budget->used(), 2UL << 20);
  SetLargeBlockWait(std::chrono::milliseconds(500));
}

TEST(RequestParser, WithoutRoomTheBodyIsRefused) {
  const auto budget = std::make_shared<rpc::ReceiveBudget>(100000);
  RequestParser parser({1000, 1UL << 30}, budget.get());
  parser.Consume("POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n");
  EXPECT_EQ(parser.BodySpace().size, 0U);
  parser.Consume(std::string(200000, 'x'));
  EXPECT_EQ(parser.state(), State::kFailed);
  EXPECT_EQ(parser.failure().status, 503);
  EXPECT_EQ(budget->used(), 0U);
}

TEST(RequestParser, ExpectationsAreToldOnce) {
  RequestParser parser(kLimits, nullptr);
  parser.Consume("POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n");
  EXPECT_TRUE(parser.TakeExpectation());
  EXPECT_FALSE(parser.TakeExpectation());
  parser.Consume("abc");
  EXPECT_EQ(parser.state(), State::kComplete);
}

TEST(RequestParser, AnOfferToUpgradeIsNotTaken) {
  const Parsed parsed = Parse(
      "GET /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"
      "CONNECT host:80 HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
      5);
  ASSERT_EQ(parsed.requests.size(), 3U);
  EXPECT_EQ(parsed.requests[1].method(), "CONNECT");
  EXPECT_EQ(parsed.requests[2].path(), "/b");
}

TEST(RequestParser, SurvivesRubbish) {
  std::mt19937 random(7);
  const std::string_view good(kThree);
  for (int round = 0; round < 5000; ++round) {
    std::string bytes(good);
    for (int change = 0; change < 3; ++change) bytes[random() % bytes.size()] = static_cast<char>(random());
    const Parsed parsed = Parse(bytes, 1 + random() % bytes.size());
    EXPECT_LE(parsed.requests.size(), 4U);
  }
}

}  // namespace
}  // namespace mesh::http
