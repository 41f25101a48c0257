import CShims
import XCTest

@testable import Kernel

/// Records of the ring buffer: what is malformed is refused, whatever it is.
final class KernelEventTests: XCTestCase {
  private func decode(_ bytes: [UInt8], hasCookies: Bool = true) -> KernelEvent? {
    bytes.withUnsafeBytes { KernelEvent(record: $0, hasCookies: hasCookies) }
  }

  private func bytes<T>(of value: T) -> [UInt8] { withUnsafeBytes(of: value) { Array($0) } }

  private func event() -> bpftune_event {
    var event = bpftune_event()
    event.header.version = UInt16(BPFTUNE_EVENT_VERSION)
    event.header.source = 16
    event.header.scenario = 2
    event.header.folded = 7
    event.header.netns_cookie = 99
    event.header.netns_inode = 4_026_531_840
    event.header.ktime_ns = 123
    event.values.0 = -1
    event.values.15 = .max
    return event
  }

  func testEvent() throws {
    let decoded = try XCTUnwrap(decode(bytes(of: event())))
    XCTAssertEqual(decoded.source, 16)
    XCTAssertEqual(decoded.scenario, 2)
    XCTAssertEqual(decoded.folded, 7)
    XCTAssertEqual(decoded.namespace, NamespaceID(cookie: 99, inode: 4_026_531_840))
    guard case .values(let values) = decoded.payload else { return XCTFail("no values") }
    XCTAssertEqual(values.count, 16)
    XCTAssertEqual([values.first, values.last], [-1, .max])
  }

  func testCookiesAreLeftOutWhereUserSpaceCannotTellThem() {
    XCTAssertEqual(decode(bytes(of: event()), hasCookies: false)?.namespace.cookie, 0)
  }

  func testSysctlEvent() throws {
    var record = bpftune_sysctl_event()
    record.header.version = UInt16(BPFTUNE_EVENT_VERSION)
    record.header.pid = 42
    withUnsafeMutableBytes(of: &record.name) { $0.copyBytes(from: Array("net/ipv4/tcp_wmem".utf8)) }
    withUnsafeMutableBytes(of: &record.comm) { $0.copyBytes(from: Array("sixteen bytes xx".utf8)) }
    withUnsafeMutableBytes(of: &record.new_value) { $0.copyBytes(from: Array("1 2 3\n".utf8)) }
    let decoded = try XCTUnwrap(decode(bytes(of: record)))
    guard case .sysctlWrite(let command, let name, let old, let new) = decoded.payload else {
      return XCTFail("no write")
    }
    XCTAssertEqual(command, "sixteen bytes xx", "a name without a NUL ends with its field")
    XCTAssertEqual([name, old, new], ["net/ipv4/tcp_wmem", "", "1 2 3\n"])
    XCTAssertEqual(decoded.process, 42)
  }

  func testMalformedRecords() {
    let good = bytes(of: event())
    for size in 0..<400 where size != good.count && size != MemoryLayout<bpftune_sysctl_event>.size
    {
      let record = Array((good + [UInt8](repeating: 0, count: 400)).prefix(size))
      XCTAssertNil(decode(record), "\(size) bytes")
    }
    var wrong = event()
    wrong.header.version = 2
    XCTAssertNil(decode(bytes(of: wrong)))
    wrong.header.version = 0
    XCTAssertNil(decode(bytes(of: wrong)))
  }

  func testAnyBytesDoNoHarm() {
    var generator = SystemRandomNumberGenerator()
    for _ in 0..<10_000 {
      let size = Int.random(in: 0...300, using: &generator)
      var record = (0..<size).map { _ in UInt8.random(in: 0...255, using: &generator) }
      if size >= 2, Bool.random() { record.replaceSubrange(0..<2, with: [1, 0]) }
      _ = decode(record)
    }
  }
}
