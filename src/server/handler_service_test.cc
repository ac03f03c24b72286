#include "server/handler_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

TEST(ToHandlerRequest, HeadersAndAttributesAreProperties) {
  ServiceRequest request;
  request.id = "7";
  request.headers = {{"Content-Type", "text/plain"},
                     {"x-amzn-sagemaker-custom-attributes", "a=b; trace=x=y;;flag;=no"}};
  request.body = "hello";
  const HandlerRequest made = ToHandlerRequest(request);
  EXPECT_THAT(made.properties,
              ElementsAre(Pair("Content-Type", "text/plain"),
                          Pair("x-amzn-sagemaker-custom-attributes", "a=b; trace=x=y;;flag;=no"),
                          Pair("x-request-id", "7"), Pair("a", "b"), Pair("trace", "x=y"), Pair("flag", "")));
  EXPECT_THAT(made.content, ElementsAre(Pair("data", "hello")));
}

TEST(ToHandlerRequest, QueryParametersAreContent) {
  ServiceRequest request;
  request.headers = {{"X-Request-Id", "mine"}};
  request.query = "a=1&b=x+y%2Fz%zz%4&&c&=d&%C3%A4=%00";
  const HandlerRequest made = ToHandlerRequest(request);
  EXPECT_THAT(made.content, ElementsAre(Pair("a", "1"), Pair("b", "x y/z%zz%4"), Pair("c", ""),
                                        Pair("\xc3\xa4", std::string(1, '\0'))));
  EXPECT_THAT(made.properties, ElementsAre(Pair("X-Request-Id", "mine")));
  EXPECT_THAT(ToHandlerRequest(ServiceRequest()).content, IsEmpty());
}

TEST(ToHttpAnswer, PropertiesAreHeadersUnlessTheyAreTheServers) {
  HandlerHead head;
  head.status = 201;
  head.properties = {{"content-type", "text/csv"},
                     {"X-Mine", "1"},
                     {"Content-Length", "5"},
                     {"Transfer-Encoding", "x"},
                     {"X-Split", "a\r\nSet-Cookie: b"},
                     {"X Space", "a"},
                     {"", "a"},
                     {"X-Tab", "a\tb"}};
  const HttpAnswer answer = ToHttpAnswer(head);
  EXPECT_EQ(answer.status, 201);
  EXPECT_EQ(answer.content_type, "text/csv");
  EXPECT_THAT(answer.headers, ElementsAre(Pair("X-Mine", "1"), Pair("X-Tab", "a\tb")));
}

TEST(ToHttpAnswer, StatusThatHttpDoesNotHave) {
  for (const int status : {0, 100, 199, 600, 999}) EXPECT_EQ(ToHttpAnswer({status, false, {}}).status, 500);
  for (const int status : {200, 204, 424, 599}) EXPECT_EQ(ToHttpAnswer({status, false, {}}).status, status);
}

}  // namespace
}  // namespace bloomery
