import TestSupport
import XCTest

/// What the tests of robustness see the daemon tune.
extension IntegrationTestCase {
  /// `tcp_wmem[2]` on the left of a limited path.
  static let sendLimit = 65536

  /// A path whose left side is held back by a small send buffer.
  func limitedPath() async throws -> Path {
    let path = try await Path(delay: Path.ordinaryDelay)
    try await path.setLargeBuffers()
    try await path.left.set(Self.wmem, "4096 16384 \(Self.sendLimit)")
    return path
  }

  /// Traffic makes the daemon raise the limit on the left.
  func assertTunes(
    _ path: Path, seconds: Double = Guest.isHere ? 6 : 2, file: StaticString = #filePath,
    line: UInt = #line
  ) async throws {
    let server = try await Iperf.server(in: path.right)
    _ = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: seconds)
    let maximum = try await path.left.maximum(Self.wmem)
    server.signal(SIGTERM)
    XCTAssertGreaterThan(maximum, Self.sendLimit, file: file, line: line)
  }

  func assertNoComplaint(
    _ daemon: Daemon, file: StaticString = #filePath, line: UInt = #line
  ) {
    let complaints = daemon.lines.filter { $0.contains("error") || $0.contains("warning") }
    XCTAssertEqual(complaints, [], file: file, line: line)
  }
}
