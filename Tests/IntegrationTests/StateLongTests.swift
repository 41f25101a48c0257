import Foundation
import Synchronization
import TestSupport
import XCTest

@testable import Tuners

/// What takes minutes: the daemon is killed again and again, and an
/// administrator writes again and again.
final class StateLongTests: IntegrationTestCase {
  private static let tunables = [
    wmem, rmem, "net.ipv4.tcp_moderate_rcvbuf",
  ]

  /// Kills the daemon at a random moment of its work, or as soon as the state
  /// file has grown for the nth time, which is just before the sysctl is
  /// written.
  func testKilledTwoHundredTimesTheOriginalsComeBack() async throws {
    let rounds = Int(ProcessInfo.processInfo.environment["BPFTUNE_TEST_KILLS"] ?? "") ?? 200
    let path = try await Path(delay: 10)
    var changed = 0
    var inFlight = 0
    var round = 0
    var disturbed = 0
    while round < rounds {
      let others = OtherDaemons()
      let originals = [
        "4096 16384 \(65536 + 4096 * Int.random(in: 0...16))",
        "4096 \(87380 + round) \(131072 + 4096 * Int.random(in: 0...16))",
        "\(round % 2)",
      ]
      for end in [path.left, path.right] {
        for (tunable, value) in zip(Self.tunables, originals) { try await end.set(tunable, value) }
      }
      let server = try await Iperf.server(in: path.right)
      let daemon = try await Daemon("--allow", "tcp-buffer", "--learning-rate", "\(round % 5)")
      let traffic = try Command(
        ["iperf3", "-c", Path.rightAddress.v4, "-t", "5", "-P", "3"], netns: path.left.name)
      if round % 2 == 0 {
        try await Task.sleep(for: .microseconds(Int.random(in: 20_000...900_000)))
        daemon.command.signal(SIGKILL)
      } else {
        let growths = Int.random(in: 1...12)
        Self.kill(
          daemon.command.pid, onGrowth: growths, of: daemon.stateDirectory + "/state.db-wal")
      }
      try await daemon.command.wait()
      traffic.signal(SIGKILL)
      server.signal(SIGTERM)
      let lines = try await StateTests.putBack(daemon.stateDirectory)
      var wrong = lines.filter { ![.putBack, .unchanged].contains($0.result) }.map { "\($0)" }
      for end in [path.left, path.right] {
        for (tunable, original) in zip(Self.tunables, originals) {
          let value = try await end.sysctl(tunable)
          if value != original { wrong.append("\(tunable) is \(value), not \(original)") }
        }
      }
      _ = try? await traffic.wait()
      _ = try? await server.wait()
      if !wrong.isEmpty, others.wereSeen(but: daemon.command.pid), disturbed < rounds {
        // Another daemon on this machine has tuned here as well.
        disturbed += 1
        continue
      }
      XCTAssertEqual(wrong, [], "round \(round)")
      changed += lines.count { $0.result == .putBack }
      inFlight += lines.count { $0.result == .unchanged }
      round += 1
    }
    await path.close()
    print(
      "\(rounds) kills: \(changed) tunables put back, \(inFlight) not written yet;"
        + " \(disturbed) rounds more with another daemon on the machine")
    XCTAssertGreaterThan(changed, rounds / 2)
  }

  /// Looks without a pause on a thread of its own, for two seconds at most.
  private static func kill(_ pid: Int32, onGrowth growths: Int, of file: String) {
    Thread.detachNewThread {
      var status = stat()
      var size = stat(file, &status) == 0 ? status.st_size : 0
      var left = growths
      let deadline = Date() + 2
      while left > 0, Date() < deadline {
        guard stat(file, &status) == 0, status.st_size > size else { continue }
        size = status.st_size
        left -= 1
      }
      Glibc.kill(pid, SIGKILL)
    }
  }

  /// Whatever an administrator writes, whenever, it stays.
  func testAThousandWritesOfAnAdministratorStay() async throws {
    let path = try await Path(delay: 10)
    let server = try await Iperf.server(in: path.right)
    var written = 0
    var daemon: Daemon?
    while written < 1000 {
      // Each write counts against a daemon that tunes there, so every tenth one
      // begins anew; every other time after a crash, with the same state.
      if written % 10 == 0 {
        if let daemon {
          if written % 20 == 0 {
            try await daemon.stop()
          } else {
            try await StateTests.kill(daemon)
            _ = try await StateTests.putBack(daemon.stateDirectory)
          }
        }
        try await path.left.set(Self.wmem, "4096 16384 65536")
        try await path.right.set(Self.rmem, "4096 87380 131072")
        daemon = try await Daemon("--allow", "tcp-buffer", "--learning-rate", "1")
      }
      let client = try Command(
        ["iperf3", "-c", Path.rightAddress.v4, "-t", "3"], netns: path.left.name)
      let end = Bool.random() ? path.left : path.right
      let tunable = end.name == path.left.name ? Self.wmem : Self.rmem
      let others = OtherDaemons()
      for _ in 0..<10 {
        let theirs = "4096 16384 \(4096 * Int.random(in: 2...200))"
        try await Task.sleep(for: .microseconds(Int.random(in: 0...40_000)))
        try await end.set(tunable, theirs)
        try await Task.sleep(for: .microseconds(Int.random(in: 0...20_000)))
        let value = try await end.sysctl(tunable)
        if value != theirs, let pid = daemon?.command.pid, others.wereSeen(but: pid) { break }
        XCTAssertEqual(value, theirs, "write \(written)")
        written += 1
      }
      written -= written % 10
      client.signal(SIGKILL)
      _ = try? await client.wait()
    }
    try await daemon?.stop()
    server.signal(SIGTERM)
    await path.close()
  }
}

/// Looks for other daemons on the machine while a round lasts.
private final class OtherDaemons: Sendable {
  private let seen = Mutex(Set<Int32>())
  private let isOver = Mutex(false)

  init() {
    Thread.detachNewThread { [weak self] in
      while let self, !self.isOver.withLock({ $0 }) {
        let pids = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        for pid in pids.compactMap({ Int32($0) }) {
          let comm = try? String(contentsOfFile: "/proc/\(pid)/comm", encoding: .utf8)
          if comm == "bpftune\n" { _ = self.seen.withLock { $0.insert(pid) } }
        }
        Thread.sleep(forTimeInterval: 0.02)
      }
    }
  }

  /// Ends looking.
  func wereSeen(but own: Int32) -> Bool {
    isOver.withLock { $0 = true }
    return seen.withLock { !$0.subtracting([own]).isEmpty }
  }

  deinit { isOver.withLock { $0 = true } }
}
