/* Starts a program with the libraries beside it: a copy of a program of this machine finds no others in an image. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words) {
  const char *before[] = {HERE "/lib/loader", "--argv0", words[0], "--library-path", HERE "/lib", HERE "/programs/" NAME};
  char **line = calloc(count + 6, sizeof *line);
  memcpy(line, before, sizeof before);
  memcpy(line + 6, words + 1, count * sizeof *line);
  setenv("GIT_EXEC_PATH", HERE "/libexec/git-core", 1);
  setenv("GIT_TEMPLATE_DIR", HERE "/share/templates", 1);
  setenv("NIX_BIN_DIR", HERE "/bin", 1);
  setenv("NIX_LIBEXEC_DIR", HERE "/libexec", 1);
  execv(line[0], line);
  return 127;
}
