import Kernel
import XCTest

@testable import Tuners

/// Values of sysctls, and the words of the log.
final class ValueTests: XCTestCase {
  func testParsing() {
    XCTAssertEqual(SysctlValue("1\n", arity: .scalar), .scalar(1))
    XCTAssertEqual(
      SysctlValue("4096\t131072\t33554432\n", arity: .triple),
      .triple(minimum: 4096, initial: 131_072, maximum: 33_554_432))
    XCTAssertEqual(SysctlValue("reno cubic\n", arity: .text), .text("reno cubic"))
    XCTAssertNil(SysctlValue("1 2", arity: .triple))
    XCTAssertNil(SysctlValue("1 2 3 4", arity: .triple))
    XCTAssertNil(SysctlValue("", arity: .scalar))
    XCTAssertNil(SysctlValue("4k", arity: .scalar))
    XCTAssertNil(SysctlValue("99999999999999999999", arity: .scalar))
  }

  func testDescriptionIsReadBack() {
    for text in ["0", "-1", "2147483647"] {
      XCTAssertEqual(SysctlValue(text, arity: .scalar)?.description, text)
    }
    XCTAssertEqual(SysctlValue(" 1\t2\n3 ", arity: .triple)?.description, "1 2 3")
  }

  func testPartOfATripleMayBeWritten() {
    let value = SysctlValue.triple(minimum: 1, initial: 2, maximum: 3)
    XCTAssertEqual(value.overwritten(by: "9"), .triple(minimum: 9, initial: 2, maximum: 3))
    XCTAssertEqual(value.overwritten(by: "9 8 7\n"), .triple(minimum: 9, initial: 8, maximum: 7))
    XCTAssertNil(value.overwritten(by: "9 8 7 6"))
    XCTAssertNil(value.overwritten(by: ""))
    XCTAssertNil(value.overwritten(by: "x"))
  }

  func testMaximum() {
    // Out of order is what an administrator may have written: kept as it is.
    let value = SysctlValue.triple(minimum: 9, initial: 5, maximum: 3)
    XCTAssertEqual(value.maximum, 3)
    XCTAssertEqual(value.with(maximum: 4), .triple(minimum: 9, initial: 5, maximum: 4))
    XCTAssertEqual(SysctlValue.scalar(7).with(maximum: 8), .scalar(8))
    XCTAssertNil(SysctlValue.text("reno").maximum)
    XCTAssertEqual(value.with(.initial(6)), .triple(minimum: 9, initial: 6, maximum: 3))
    XCTAssertEqual(value.with(.whole(.text("cubic"))), .text("cubic"))
    XCTAssertTrue(SysctlPart.initial(5).holds(in: value))
    XCTAssertFalse(SysctlPart.whole(.scalar(3)).holds(in: value))
  }

  func testWords() {
    XCTAssertEqual(Words.bytes(0), "0 B")
    XCTAssertEqual(Words.bytes(1023), "1023 B")
    XCTAssertEqual(Words.bytes(65536), "64 KiB")
    XCTAssertEqual(Words.bytes(1_992_294), "1.8 MiB")
    XCTAssertEqual(Words.bytes(.max), "8589934591 GiB")
    XCTAssertEqual(Words.microseconds(999), "999 us")
    XCTAssertEqual(Words.microseconds(20_540), "20.5 ms")
    XCTAssertEqual(Words.rate(2_500_000, in: 20_000), "1000 Mbit/s")
    XCTAssertEqual(Words.rate(100, in: 20_000), "40 kbit/s")
    XCTAssertEqual(Words.rate(1, in: 0), "0 bit/s")
    XCTAssertEqual(Words.rate(.max, in: 1).isEmpty, false)
  }

  func testPeerAddresses() {
    let mapped = PeerAddress(high: 0, low: Int64(bigEndian: 0x0000_ffff_0a00_0001))
    XCTAssertEqual(mapped.description, "10.0.0.1")
    let six = PeerAddress(
      high: Int64(bitPattern: UInt64(bigEndian: 0xfd98_0000_0000_0000)), low: Int64(bigEndian: 2))
    XCTAssertEqual(six.description, "fd98::2")
  }

  func testLogLinesAreFolded() {
    var folder = LogFolder()
    let start = ContinuousClock.now
    let admitted = (0..<25).filter { _ in folder.admit("x", now: start) != nil }
    XCTAssertEqual(admitted.count, 10)
    XCTAssertEqual(folder.admit("y", now: start), "")
    XCTAssertEqual(folder.admit("x", now: start + .seconds(61)), " (and 15 like it before)")
  }

  func testKernelVersions() {
    XCTAssertEqual(KernelVersion(release: "6.1.0-56-amd64"), KernelVersion(6, 1))
    XCTAssertEqual(KernelVersion(release: "6.12.95+deb12-amd64"), KernelVersion(6, 12))
    XCTAssertEqual(KernelVersion(release: "7.0-rc1"), KernelVersion(7, 0))
    XCTAssertEqual(KernelVersion(release: "nonsense"), KernelVersion(0, 0))
    XCTAssertLessThan(KernelVersion(5, 10), KernelVersion(6, 1))
    XCTAssertLessThan(KernelVersion(6, 1), KernelVersion(6, 12))
  }
}
