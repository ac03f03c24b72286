#include "api/query.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

TEST(ParseQuery, EscapesAreTakenAndWhatIsNoneStays) {
  EXPECT_THAT(ParseQuery("a=1&b=x+y%2Fz%zz%4&&c&=d&%C3%A4=%00&e=f=g"),
              ElementsAre(Pair("a", "1"), Pair("b", "x y/z%zz%4"), Pair("c", ""),
                          Pair("\xc3\xa4", std::string(1, '\0')), Pair("e", "f=g")));
  EXPECT_THAT(ParseQuery(""), IsEmpty());
  EXPECT_THAT(ParseQuery("&&=&"), IsEmpty());
}

TEST(DecodePercents, PlusStays) { EXPECT_EQ(DecodePercents("a+b%2fc%2"), "a+b/c%2"); }

}  // namespace
}  // namespace bloomery
