import CShims
import Foundation

/// Namespaces with a bridge that nothing is attached to, to fill neighbour
/// tables from.
public enum Neighbours {
  public static let device = "br0"

  /// What an adder reports.
  public struct Result: Sendable {
    public let added: Int
    /// For want of room in the table.
    public let refused: Int
    /// How many the device had afterwards.
    public let held: Int
    public let microseconds: Int
  }

  /// Neighbours for one device to get.
  public struct Job: Sendable {
    let namespace: TestNamespace
    let arguments: [String]

    public init(
      _ namespace: TestNamespace, first: String, count: Int, state: String = "reachable",
      device: String = Neighbours.device
    ) {
      self.namespace = namespace
      arguments = [device, first, "\(count)", state]
    }
  }

  /// A namespace with a bridge of that name, which has these addresses.
  public static func namespace(
    _ label: String, addresses: [String] = ["10.0.0.1/8", "fd77::1/64"],
    device: String = Neighbours.device
  ) async throws -> TestNamespace {
    let namespace = try await TestNamespace(label)
    let name = namespace.name
    try await execute("ip", "link", "add", device, "type", "bridge", netns: name)
    try await execute("ip", "link", "set", device, "up", netns: name)
    for address in addresses {
      try await execute("ip", "addr", "add", address, "dev", device, "nodad", netns: name)
    }
    return namespace
  }

  /// Runs all jobs at the same time.
  public static func add(_ jobs: [Job]) async throws -> [Result] {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    let begin = now.tv_sec * 1000 + now.tv_nsec / 1_000_000 + 150
    let commands = try jobs.map { job in
      try Command(
        [Products.path("neighbour-adder")] + job.arguments + ["\(begin)"],
        netns: job.namespace.name)
    }
    var results: [Result] = []
    for command in commands {
      let status = try await command.wait()
      let numbers = command.output.split(separator: " ").compactMap { Int($0) }
      guard status == 0, numbers.count == 4 else {
        throw Command.Failure("neighbour-adder: exit \(status): \(command.output)")
      }
      results.append(
        Result(
          added: numbers[0], refused: numbers[1], held: numbers[2], microseconds: numbers[3]))
    }
    return results
  }

  /// A counter of /proc/net/stat/arp_cache or ndisc_cache, over all CPUs;
  /// `entries` is the same on each.
  public static func counter(_ name: String, of table: String = "arp_cache") throws -> Int {
    let text = try String(contentsOfFile: "/proc/net/stat/\(table)", encoding: .utf8)
    let lines = text.split(separator: "\n").map { $0.split(separator: " ") }
    guard let column = lines.first?.firstIndex(where: { $0 == name }) else {
      throw Command.Failure("no \(name) in /proc/net/stat/\(table)")
    }
    let values = lines.dropFirst().map { Int($0[column], radix: 16) ?? 0 }
    return name == "entries" ? values[0] : values.reduce(0, +)
  }

  /// Waits until the entries of deleted namespaces are gone.
  public static func empty() async throws {
    try await eventually(upTo: 20, "empty neighbour tables") {
      try counter("entries") < 50 && counter("entries", of: "ndisc_cache") < 50
    }
  }
}

/// The place of the one daemon on this machine, for a test that does a tuner's
/// work in its own process. Given back with the value.
public final class DaemonsPlace: Sendable {
  private let fd: Int32

  /// Waits until no daemon runs.
  public init() async throws {
    mkdir("/run/bpftune", 0o755)
    let fd = open("/run/bpftune/lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard fd >= 0 else { throw Command.Failure("cannot open the daemon's lock") }
    self.fd = fd
    try await eventually(upTo: 60, "the daemon's lock") { bpftune_lock(fd) == 0 }
  }

  deinit { close(fd) }
}
