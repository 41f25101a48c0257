// Measures the daemon: ratios against the same machine without it, and against
// a bare C loop. `bpftune-bench --help` lists the groups.
import ArgumentParser
import Foundation
import TestSupport

@main
struct Bench: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bpftune-bench",
    abstract: "Measures bpftune in namespaces of its own. Needs root and iperf3.")

  enum Group: String, CaseIterable, ExpressibleByArgument {
    case footprint, latency, throughput, convergence, namespaces, neighbours, drops, congestion
    case answers, memory
    case startingSizes = "starting-sizes"
    case latencyUnderLoad = "latency-under-load"
  }

  @Flag(help: "Print JSON.")
  var json = false

  @Option(help: "Of the group congestion, only the paths whose name contains this.")
  var path = ""

  @Argument(help: "What to measure; everything by default.")
  var groups: [Group] = Group.allCases

  func run() async throws {
    guard geteuid() == 0 else { throw ValidationError("needs root") }
    var rows: [Row] = []
    for group in groups {
      FileHandle.standardError.write(Data("measuring \(group.rawValue) ...\n".utf8))
      let measured =
        switch group {
        case .footprint: try await measureFootprint()
        case .latency: try await measureLatency()
        case .throughput: try await measureThroughput()
        case .convergence: try await measureConvergence()
        case .namespaces: try await measureNamespaces()
        case .neighbours: try await measureNeighbours()
        case .drops: try await measureDrops()
        case .congestion: try await measureCongestion(only: path)
        case .answers: try await measureAnswers()
        case .startingSizes: try await measureStartingSizes()
        case .memory: try await measureMemorySqueeze()
        case .latencyUnderLoad: try await measureQueue()
        }
      rows += measured
    }
    if json { try Row.printJSON(rows) } else { Row.printTable(rows) }
  }
}

/// One line of the result.
struct Row: Encodable {
  let what: String
  let ours: Double
  /// Against what `ours` is held; nil for an absolute figure.
  var reference: Double?
  var unit = ""
  /// `ours / reference`, or `ours` itself, has to be so.
  let goal: Goal

  enum Goal: Encodable, CustomStringConvertible {
    case atLeast(Double)
    case atMost(Double)
    case none

    var description: String {
      switch self {
      case .atLeast(let bound): ">= \(Row.short(bound))"
      case .atMost(let bound): "<= \(Row.short(bound))"
      case .none: ""
      }
    }

    func encode(to encoder: any Encoder) throws {
      var container = encoder.singleValueContainer()
      try container.encode(description)
    }
  }

  var ratio: Double? { reference.map { ours / $0 } }

  var met: Bool? {
    switch goal {
    case .atLeast(let bound): (ratio ?? ours) >= bound
    case .atMost(let bound): (ratio ?? ours) <= bound
    case .none: nil
    }
  }

  private enum Key: CodingKey { case what, ours, reference, ratio, unit, goal, met }

  func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: Key.self)
    try container.encode(what, forKey: .what)
    try container.encode(ours, forKey: .ours)
    try container.encode(reference, forKey: .reference)
    try container.encode(ratio, forKey: .ratio)
    try container.encode(unit, forKey: .unit)
    try container.encode(goal, forKey: .goal)
    try container.encode(met, forKey: .met)
  }

  static func printJSON(_ rows: [Row]) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    print(String(decoding: try encoder.encode(rows), as: UTF8.self))
  }

  static func printTable(_ rows: [Row]) {
    let cells =
      [["WHAT", "OURS", "AGAINST", "UNIT", "RATIO", "GOAL", ""]]
      + rows.map { row in
        [
          row.what, short(row.ours), row.reference.map(short) ?? "", row.unit,
          row.ratio.map(short) ?? "", row.goal.description,
          row.met.map { $0 ? "met" : "missed" } ?? "",
        ]
      }
    let widths = (0..<7).map { column in cells.map { $0[column].count }.max() ?? 0 }
    for line in cells {
      let padded = zip(line, widths).map {
        $0 + String(repeating: " ", count: $1 - $0.count)
      }
      print(padded.joined(separator: "  "))
    }
  }

  static func short(_ number: Double) -> String {
    if number == number.rounded(), abs(number) < 1e9 { return String(Int(number)) }
    return String(format: abs(number) < 10 ? "%.3g" : "%.1f", number)
  }
}

func mean(_ numbers: [Double]) -> Double {
  numbers.isEmpty ? 0 : numbers.reduce(0, +) / Double(numbers.count)
}

/// The middle one, or the mean of the two in the middle.
func median(_ numbers: [Double]) -> Double {
  let sorted = numbers.sorted()
  guard !sorted.isEmpty else { return 0 }
  return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
}

func percentile(_ share: Double, of numbers: [Double]) -> Double {
  let sorted = numbers.sorted()
  guard !sorted.isEmpty else { return 0 }
  return sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))]
}
