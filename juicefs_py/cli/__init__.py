"""How the program talks with a person or a script: arguments, help, log lines, tables. No file system logic."""
