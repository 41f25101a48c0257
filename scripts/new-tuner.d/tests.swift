import Foundation
import TestSupport
import XCTest

/// @name@ with a real socket that joins more groups than it may.
final class @Type@Tests: IntegrationTestCase {
  private static let most = "net.ipv4.igmp_max_memberships"

  /// How many of so many groups a new socket may join, trying each ten times.
  private func joined(_ count: Int, in namespace: TestNamespace) async throws -> Int {
    try await namespace.inside {
      let fd = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
      defer { close(fd) }
      var joined = 0
      for index in 1...count {
        var request = ip_mreq()
        request.imr_multiaddr.s_addr = UInt32(0xef01_0000 + index).bigEndian
        request.imr_interface.s_addr = UInt32(0x7f00_0001).bigEndian
        for attempt in 0..<10 {
          if attempt > 0 { usleep(20_000) }
          let length = socklen_t(MemoryLayout<ip_mreq>.size)
          if setsockopt(fd, Int32(IPPROTO_IP), IP_ADD_MEMBERSHIP, &request, length) == 0 {
            joined += 1
            break
          }
        }
      }
      return joined
    }
  }

  func testASocketMayJoinMoreGroups() async throws {
    let namespace = try await TestNamespace("groups")
    try await namespace.set(Self.most, "5")
    let without = try await joined(12, in: namespace)
    XCTAssertEqual(without, 5)
    let daemon = try await Daemon("--allow", "@name@")
    let with = try await joined(12, in: namespace)
    let limit = try await namespace.sysctl(Self.most)
    try await daemon.stop()
    await namespace.delete()
    print("@name@: of 12 groups \(without) without, \(with) with the daemon")
    XCTAssertEqual(with, 12)
    XCTAssertEqual(limit, "20")
  }

  /// Another error is no reason.
  func testAGroupThatDoesNotExistRaisesNothing() async throws {
    let namespace = try await TestNamespace("groups")
    let before = try await namespace.sysctl(Self.most)
    let daemon = try await Daemon("--allow", "@name@")
    let status = try await namespace.inside {
      let fd = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
      defer { close(fd) }
      var request = ip_mreq()
      let length = socklen_t(MemoryLayout<ip_mreq>.size)
      return setsockopt(fd, Int32(IPPROTO_IP), IP_ADD_MEMBERSHIP, &request, length)
    }
    XCTAssertEqual(status, -1)
    _ = try await joined(3, in: namespace)
    let after = try await namespace.sysctl(Self.most)
    try await daemon.stop()
    await namespace.delete()
    XCTAssertEqual(after, before)
    XCTAssertTrue(daemon.changes(of: Self.most).isEmpty)
  }
}
