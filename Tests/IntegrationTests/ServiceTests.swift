import CShims
import Foundation
import Kernel
import TestSupport
import XCTest

/// What the daemon does as a service: it tells the manager how it stands, and
/// gives up what it does not need.
final class ServiceTests: IntegrationTestCase {
  // MARK: The service manager

  func testTellsTheServiceManagerWhenReady() async throws {
    let manager = try Manager()
    let daemon = try await Daemon(
      "--allow", "tcp-buffer", environment: ["NOTIFY_SOCKET": manager.path])
    let ready = try await manager.next()
    try await daemon.stop()
    let stopping = try await manager.next()
    XCTAssertEqual(ready, "READY=1\nSTATUS=tuning with tcp-buffer")
    XCTAssertEqual(stopping, "STOPPING=1", "no watchdog, no other message")
  }

  func testFeedsTheWatchdogUntilItIsStuck() async throws {
    let manager = try Manager()
    let daemon = try await Daemon(
      "--allow", "tcp-buffer",
      environment: ["NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "400000"])
    for _ in 0..<4 {
      var message = try await manager.next()
      if message.hasPrefix("READY=1") { message = try await manager.next() }
      XCTAssertEqual(message, "WATCHDOG=1")
    }
    daemon.command.signal(SIGSTOP)
    try await Task.sleep(for: .milliseconds(300))
    manager.forget()
    try await Task.sleep(for: .seconds(1))
    XCTAssertNil(manager.waiting())
    daemon.command.signal(SIGCONT)
    let again = try await manager.next()
    XCTAssertEqual(again, "WATCHDOG=1")
    try await daemon.stop()
  }

  func testLeavesTheWatchdogOfAnotherProcessAlone() async throws {
    let manager = try Manager()
    let daemon = try await Daemon(
      "--allow", "tcp-buffer",
      environment: ["NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"])
    _ = try await manager.next()
    try await Task.sleep(for: .milliseconds(500))
    try await daemon.stop()
    let message = try await manager.next()
    XCTAssertEqual(message, "STOPPING=1")
  }

  // MARK: Privileges

  func testGivesUpWhatItDoesNotNeed() async throws {
    let daemon = try await Daemon("--allow", "tcp-buffer")
    let pid = daemon.command.pid
    let status = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
    let check = try await execute(Products.path("bpftune"), "check")
    let json = try await execute(Products.path("bpftune"), "check", "--json")
    let ofAllThreads = try XCTUnwrap(Privileges.held(by: pid))
    try await daemon.stop()
    XCTAssertEqual(ofAllThreads.capabilities, Privileges.kept)
    XCTAssertTrue(ofAllThreads.noNewPrivileges)
    let kept = String(format: "%016lx", Int(Privileges.kept.rawValue))
    for (set, value) in [
      ("CapInh", "0000000000000000"), ("CapPrm", kept), ("CapEff", kept), ("CapBnd", kept),
      ("CapAmb", "0000000000000000"), ("NoNewPrivs", "1"),
    ] {
      XCTAssertTrue(status.contains("\(set):\t\(value)\n"), "\(set) of\n\(status)")
    }
    XCTAssertTrue(
      check.contains(
        "runs with pid \(pid), holds CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN\n"), check)
    let report = try XCTUnwrap(
      try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any])
    let held = try XCTUnwrap(report["daemon"] as? [String: Any])
    XCTAssertEqual(held["pid"] as? Int32, pid)
    XCTAssertEqual(held["capabilities"] as? [String], Privileges.kept.names)
    XCTAssertEqual(held["noNewPrivileges"] as? Bool, true)
  }

  /// What it keeps is enough for each hook, and none of it is too much.
  func testNeedsWhatItKeeps() async throws {
    let kept = Privileges.kept.names.map { $0.dropFirst(4).lowercased() }
    let hooks = try await lines(with: kept, "check")
    let all = try await execute(Products.path("bpftune"), "check")
    XCTAssertEqual(hooks, all)
    for name in ["net_admin", "sys_admin"] {
      let less = try await lines(with: kept.filter { $0 != name }, "check")
      XCTAssertTrue(less.contains("needs root: CAP_\(name.uppercased()) missing"), less)
    }
    // A namespace that nothing but a process of another user leads to.
    let other = try Command([
      "unshare", "--net", "setpriv", "--reuid", "65534", "--clear-groups", "sleep", "60",
    ])
    defer { other.signal(SIGKILL) }
    let namespace = "/proc/\(other.pid)/ns/net"
    var inode = ""
    try await eventually("the other user's process") {
      inode = (try? FileManager.default.destinationOfSymbolicLink(atPath: namespace)) ?? ""
      let uid = try String(contentsOfFile: "/proc/\(other.pid)/status", encoding: .utf8)
      return uid.contains("Uid:\t65534") && inode.hasPrefix("net:[")
    }
    let watching = "netns \(inode.dropFirst(5).dropLast()): watching it"
    for (capabilities, finds) in [(kept, true), (kept.filter { $0 != "sys_ptrace" }, false)] {
      let output = try await lines(with: capabilities, "--foreground", "--verbose", "-a", "neigh")
      XCTAssertTrue(output.contains("tuning with neigh"), output)
      XCTAssertEqual(output.contains(watching), finds, output)
    }
  }

  /// What bpftune prints with these capabilities and no other; a daemon is
  /// stopped once it tunes.
  private func lines(with capabilities: [String], _ arguments: String...) async throws -> String {
    let bounds = (["-all"] + capabilities.map { "+\($0)" }).joined(separator: ",")
    let command = try Command(
      ["setpriv", "--bounding-set", bounds, Products.path("bpftune")] + arguments)
    try await eventually("\(arguments) with \(bounds)") {
      !command.isRunning || command.output.contains("tuning with")
    }
    command.signal(SIGTERM)
    try await command.wait()
    return command.output
  }
}

/// Stands where systemd listens for messages.
private final class Manager: Sendable {
  let path = NSTemporaryDirectory() + "bt-notify-\(UUID().uuidString)"
  private let fd = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)

  init() throws {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
    let bound = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(fd, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    guard bound == 0 else { throw Command.Failure("cannot listen at \(path)") }
  }

  deinit {
    close(fd)
    unlink(path)
  }

  /// A message that is there already.
  func waiting() -> String? {
    var buffer = [UInt8](repeating: 0, count: 1024)
    let count = recv(fd, &buffer, buffer.count, Int32(MSG_DONTWAIT))
    return count > 0 ? String(decoding: buffer.prefix(count), as: UTF8.self) : nil
  }

  func forget() { while waiting() != nil {} }

  func next() async throws -> String {
    var message: String?
    try await eventually("a message to the service manager") {
      message = waiting()
      return message != nil
    }
    return message ?? ""
  }
}
