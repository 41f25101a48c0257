import Foundation
import Kernel
import TestSupport
import Tuners
import XCTest

/// The machine with the kernel's own sizes of UDP buffers, to be put back.
class UDPBufferTestCase: IntegrationTestCase {
  static let names = [
    "net.core.rmem_default", "net.core.rmem_max", "net.ipv4.udp_mem",
  ]
  /// The kernel's own size, in bytes: room for some 280 small datagrams.
  static let usual = "212992"
  private var saved: SavedSysctls?

  override func setUp() async throws {
    try await super.setUp()
    saved = try await SavedSysctls(Self.names)
    for name in Self.names.prefix(2) { try await TestNamespace.initial.set(name, Self.usual) }
  }

  override func tearDown() async throws {
    await saved?.restore()
    try await super.tearDown()
  }

  func value(_ index: Int) async throws -> String {
    try await TestNamespace.initial.sysctl(Self.names[index])
  }

  func daemon(_ options: String...) async throws -> Daemon {
    try await Daemon("--allow", "udp-buffer")
  }

  /// A program that reads what comes, but not while a burst comes; it opens a
  /// socket for each job, and a job is one burst. Datagrams dropped in each.
  func jobs(
    _ count: Int, burst: Int, in namespace: TestNamespace, asking: Int32? = nil
  ) async throws -> [Int] {
    try await namespace.inside {
      (0..<count).map { _ in
        guard let reader = try? DatagramSocket(port: 5000, receiveBuffer: asking),
          let sender = try? DatagramSocket()
        else { return -1 }
        sender.send(burst, 5000)
        let received = reader.drain()
        usleep(Guest.isHere ? 400_000 : 60_000)
        return burst - received
      }
    }
  }

  func unchanged() async throws {
    let now = [try await value(0), try await value(1)]
    XCTAssertEqual(now, [Self.usual, Self.usual])
  }
}
