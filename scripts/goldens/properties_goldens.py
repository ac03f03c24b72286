#!/usr/bin/env python3
"""What java.util.Properties reads in small hostile texts, for the reader of serving.properties. Needs a JDK (openjdk-17-jdk-headless)."""

import argparse
import base64
import json
import pathlib
import random
import subprocess
import tempfile

JAVA = """
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.util.*;

class Oracle {
  static String encode(String text) { return Base64.getEncoder().encodeToString(text.getBytes(StandardCharsets.UTF_8)); }

  public static void main(String[] arguments) throws IOException {
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
    for (String line; (line = lines.readLine()) != null;) {
      Properties properties = new Properties();
      StringBuilder out = new StringBuilder("ok");
      try {
        properties.load(new StringReader(new String(Base64.getDecoder().decode(line), StandardCharsets.UTF_8)));
        for (String key : new TreeSet<>(properties.stringPropertyNames())) {
          out.append(" =").append(encode(key)).append(" =").append(encode(properties.getProperty(key)));
        }
      } catch (IllegalArgumentException refused) {
        out = new StringBuilder("refused");
      }
      System.out.println(out);
    }
  }
}
"""

# Every way a line can begin, end, continue and separate; random sequences of them meet each other in all orders.
PIECES = ["a", "key", "b c", "=", ":", " ", "\t", "\f", "#", "!", "\\", "\\\\", "\n", "\r", "\r\n", "\\\n", "\\\r\n", "\\\n  ", "\\u0041", "\\u00e9", "\\uD83D\\uDE00",
          "\\u12", "\\n", "\\t", "\\r", "\\f", "\\=", "\\:", "\\#", "\\!", "\\ ", "\\z", "é", "…", "value"]  # fmt: skip
WRITTEN = [
    "engine = DeepSpeed\noption.tensor_parallel_degree=4\n",
    "# comment \\\nnot continued=1\n",
    "fruits  apple, banana, \\\n        pear\n",
    "cheeses\n",
    "truth:Beauty\n Truth = Beauty\n",
    "a\\ b\\:c = d\\\\\n",
    "path=c\\:\\\\temp\\\\",
    "k=1\nk=2\n",
    "\\\n#key=value\n",
    "=no key\n",
    "key=trailing blanks  \n",
    "\ufeffengine=Python\n",
]


def texts():
    choice = random.Random(19)
    return WRITTEN + ["".join(choice.choices(PIECES, k=choice.randint(1, 14))) for _ in range(600)]


def read_by_java(cases):
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "Oracle.java"
        program.write_text(JAVA)
        lines = "\n".join(base64.b64encode(text.encode()).decode() for text in cases) + "\n"
        done = subprocess.run(["java", str(program)], input=lines, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        status, *fields = line.split()
        if status == "refused":
            yield None
            continue
        decoded = [base64.b64decode(field[1:]).decode() for field in fields]
        yield dict(zip(decoded[::2], decoded[1::2]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    output = parser.parse_args().output / "testdata/properties.json"
    cases = texts()
    read = [{"text": text, "properties": properties} for text, properties in zip(cases, read_by_java(cases), strict=True)]
    output.write_text("[\n" + ",\n".join(json.dumps(case) for case in read) + "\n]\n")


main()
