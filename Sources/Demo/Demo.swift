// Shows bpftune at work: two namespaces, a path of 20 ms between them, buffers
// that are too small, and what the daemon makes of it. Puts everything back.
import Foundation
import TestSupport

@main
struct Demo {
  static let wmem = "net.ipv4.tcp_wmem"
  static let rmem = "net.ipv4.tcp_rmem"

  static func main() async {
    do {
      guard geteuid() == 0 else { throw Command.Failure("needs root: run it with sudo") }
      try await show()
    } catch {
      FileHandle.standardError.write(Data("bpftune-demo: \(error)\n".utf8))
      exit(1)
    }
  }

  static func show() async throws {
    say("Two namespaces, a path of 1 Gbit/s and 20 ms between them, small TCP buffers.")
    let path = try await Path(delay: 10, options: ["--rate-mbit", "1000"])
    try await path.setLargeBuffers()
    try await path.left.set(wmem, "4096 16384 65536")
    try await path.right.set(rmem, "4096 131072 262144")
    try await printBuffers(path)
    let server = try await Iperf.server(in: path.right)

    say("\nWithout bpftune:")
    try await transfer(path)

    say("\nWith bpftune:")
    let daemon = try await Daemon("--rollback", "--allow", "tcp-buffer")
    let follower = Task { try await follow(daemon) }
    try await transfer(path)
    try await transfer(path)
    follower.cancel()

    say("\nStopped with --rollback:")
    try await daemon.stop()
    try await printBuffers(path)
    server.signal(SIGTERM)
    await path.close()
  }

  /// Without a buffer: what is said while it happens is seen while it happens.
  static func say(_ line: String) {
    FileHandle.standardOutput.write(Data((line + "\n").utf8))
  }

  static func transfer(_ path: Path) async throws {
    let result = try await Iperf.run(from: path.left, to: Path.rightAddress.v4, seconds: 4)
    say("  one connection of 4 s: \(Int(result.rate)) Mbit/s")
  }

  /// Prints what the daemon changes, as it happens.
  static func follow(_ daemon: Daemon) async throws {
    var shown = 0
    while true {
      let changes = daemon.lines.filter { $0.contains(" net.") && $0.contains(" -> ") }
      for line in changes.dropFirst(shown) { say("  \(line)") }
      shown = changes.count
      try await Task.sleep(for: .milliseconds(50))
    }
  }

  static func printBuffers(_ path: Path) async throws {
    say("  sender's   \(wmem) = \(try await path.left.sysctl(wmem))")
    say("  receiver's \(rmem) = \(try await path.right.sysctl(rmem))")
  }
}
