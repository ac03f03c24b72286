#include "storage/checksum.h"

#include <gmock/gmock.h>

#include <random>
#include <vector>

namespace bloomery {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string RandomText(std::size_t size) {
  std::mt19937 random(7);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

// The check values of the catalogue of CRCs, and of the RFCs.
TEST(ChecksumTest, PublishedValues) {
  EXPECT_EQ(ToHex(ChecksumOf(ChecksumKind::kCrc32, Bytes("123456789"))), "cbf43926");
  EXPECT_EQ(ToHex(ChecksumOf(ChecksumKind::kCrc32c, Bytes("123456789"))), "e3069283");
  EXPECT_EQ(ToHex(ChecksumOf(ChecksumKind::kCrc64Nvme, Bytes("123456789"))), "ae8b14860a799888");
  EXPECT_EQ(ToHex(ChecksumOf(ChecksumKind::kMd5, Bytes(""))), "d41d8cd98f00b204e9800998ecf8427e");
  EXPECT_EQ(ToHex(ChecksumOf(ChecksumKind::kSha256, Bytes("abc"))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  // RFC 3720, B.4: 32 bytes of zeros, and of ones.
  EXPECT_EQ(ToHex(ChecksumOf(ChecksumKind::kCrc32c, Bytes(std::string(32, '\0')))), "8a9136aa");
  EXPECT_EQ(ToHex(ChecksumOf(ChecksumKind::kCrc32c, Bytes(std::string(32, '\xFF')))), "62a8ab43");
}

// However the bytes are cut, and at every length around the steps of 16 and of 64, byte by byte gives the
// same.
TEST(ChecksumTest, PiecesOfAnyLength) {
  const std::string text = RandomText(300);
  for (const ChecksumKind kind : kChecksumKinds) {
    for (std::size_t size = 0; size <= 260; ++size) {
      const auto all = Bytes(text).subspan(3, size);
      Checksum bytewise(kind);
      for (std::size_t i = 0; i < size; ++i) bytewise.Update(all.subspan(i, 1));
      EXPECT_EQ(bytewise.Finish(), ChecksumOf(kind, all)) << ChecksumName(kind) << " " << size;
    }
  }
}

TEST(ChecksumTest, CrcsCombine) {
  const std::string text = RandomText(100'003);
  for (const ChecksumKind kind : kChecksumKinds) {
    if (!IsCrc(kind)) continue;
    const std::string whole = ChecksumOf(kind, Bytes(text));
    for (const std::size_t cut : {0UL, 1UL, 17UL, 65'536UL, 100'002UL, 100'003UL}) {
      const auto a = Bytes(text).first(cut);
      const auto b = Bytes(text).subspan(cut);
      EXPECT_EQ(CombineCrcs(kind, ChecksumOf(kind, a), ChecksumOf(kind, b), b.size()), whole)
          << ChecksumName(kind) << " " << cut;
    }
  }
}

TEST(ChecksumTest, Base64AndHex) {
  EXPECT_EQ(ToBase64("foob"), "Zm9vYg==");
  EXPECT_EQ(ToBase64("fooba"), "Zm9vYmE=");
  EXPECT_EQ(FromBase64("Zm9vYg=="), "foob");
  EXPECT_EQ(FromBase64("Zm9vYmFy"), "foobar");
  EXPECT_EQ(FromBase64("Zm9vYg="), std::nullopt);
  EXPECT_EQ(FromBase64("Zm9!Yg=="), std::nullopt);
  EXPECT_EQ(FromHex("00ff7f"), std::string("\0\xFF\x7F", 3));
  EXPECT_EQ(FromHex("0g"), std::nullopt);
}

}  // namespace
}  // namespace bloomery
