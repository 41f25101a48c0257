import Glibc

/// What is known about standard output.
enum Terminal {
  static let isOutput = isatty(STDOUT_FILENO) == 1

  /// Colour on a terminal that has it, unless NO_COLOR says no (no-color.org).
  static let hasColor: Bool = {
    let variable = { (name: String) in getenv(name).map { String(cString: $0) } ?? "" }
    return isOutput && variable("NO_COLOR").isEmpty && variable("TERM") != "dumb"
  }()

  /// Columns and rows; 80 and 24 where the terminal does not say.
  static var size: (columns: Int, rows: Int) {
    var size = winsize()
    guard ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0, size.ws_row > 0
    else { return (80, 24) }
    return (Int(size.ws_col), Int(size.ws_row))
  }
}

/// A text with a colour that counts on a terminal only.
struct Cell: ExpressibleByStringInterpolation {
  enum Style: String {
    case plain = ""
    case bold = "1"
    case good = "32"
    case attention = "33"
    case bad = "31"
    case faint = "2"
  }

  let text: String
  let style: Style

  /// Names come from whoever made a namespace or runs a process: what would
  /// command the terminal is left out.
  init(_ text: String, _ style: Style = .plain) {
    self.text = String(
      String.UnicodeScalarView(
        text.unicodeScalars.map {
          $0.properties.generalCategory == .control || $0.properties.generalCategory == .format
            ? "?" : $0
        }))
    self.style = style
  }

  init(_ number: some BinaryInteger, _ style: Style = .plain) { self.init("\(number)", style) }
  init(stringLiteral text: String) { self.init(text) }

  var rendered: String { rendered(padding: "") }

  fileprivate func rendered(padding: String) -> String {
    guard Terminal.hasColor, style != .plain else { return text + padding }
    return "\u{1b}[\(style.rawValue)m\(text)\u{1b}[0m\(padding)"
  }
}

/// Rows in columns as wide as what is in them.
struct Table {
  private let head: [String]
  private var rows: [[Cell]] = []

  init(_ head: String...) { self.head = head }

  mutating func add(_ cells: Cell...) { rows.append(cells) }
  mutating func add(_ cells: [Cell]) { rows.append(cells) }

  var isEmpty: Bool { rows.isEmpty }

  var lines: [String] {
    let all = (head.isEmpty ? [] : [head.map { Cell($0, .bold) }]) + rows
    var widths = [Int](repeating: 0, count: all.map(\.count).max() ?? 0)
    for row in all {
      for (column, cell) in row.enumerated() {
        widths[column] = max(widths[column], cell.text.count)
      }
    }
    return all.map { row in
      row.enumerated().map { column, cell in
        let isLast = column == row.count - 1
        let gap = isLast ? 0 : widths[column] - cell.text.count + 2
        return cell.rendered(padding: String(repeating: " ", count: gap))
      }.joined()
    }
  }

  func print() { for line in lines { Swift.print(line) } }
}

/// Prints a line of cells.
func show(_ cells: Cell...) { print(cells.map(\.rendered).joined()) }
