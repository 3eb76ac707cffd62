// Loads a SavedModel through TensorFlow's C API, without Python, and answers with two signatures.
//
//   serve_saved_model FOLDER SIZE PIXELS_IN PROBABILITIES_OUT FILES_IN CLASSES_OUT SCORES_OUT
//       ERROR_OUT FILE...
//
// Tensors are named as the SavedModel's signatures name them, "operation:index". Prints the
// probabilities of a picture of gray 128, one a line, then for each file its error, its best class
// and its score, one a line.

#include <tensorflow/c/c_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

TF_Status* status = TF_NewStatus();

void Check(bool ok, const std::string& what) {
  if (ok && TF_GetCode(status) == TF_OK) return;
  std::fprintf(stderr, "%s: %s\n", what.c_str(), TF_Message(status));
  std::exit(1);
}

TF_Output Find(TF_Graph* graph, const std::string& tensor) {
  const size_t colon = tensor.rfind(':');
  TF_Operation* operation =
      TF_GraphOperationByName(graph, tensor.substr(0, colon).c_str());
  Check(operation != nullptr, "no operation " + tensor);
  return {operation, std::atoi(tensor.c_str() + colon + 1)};
}

std::vector<TF_Tensor*> Run(TF_Session* session, TF_Output input, TF_Tensor* value,
                            const std::vector<TF_Output>& outputs) {
  std::vector<TF_Tensor*> results(outputs.size());
  TF_SessionRun(session, nullptr, &input, &value, 1, outputs.data(), results.data(),
                static_cast<int>(outputs.size()), nullptr, 0, nullptr, status);
  Check(true, "run");
  return results;
}

std::string Text(TF_Tensor* strings, int64_t index) {
  const TF_TString* text = static_cast<TF_TString*>(TF_TensorData(strings)) + index;
  return std::string(TF_StringGetDataPointer(text), TF_StringGetSize(text));
}

}  // namespace

int main(int argc, char** argv) {
  Check(argc > 9, "arguments");
  const char* tag = "serve";
  TF_Graph* graph = TF_NewGraph();
  TF_Session* session = TF_LoadSessionFromSavedModel(TF_NewSessionOptions(), nullptr, argv[1],
                                                     &tag, 1, graph, nullptr, status);
  Check(true, "load");

  const int64_t size = std::atoi(argv[2]);
  const int64_t shape[] = {1, size, size, 3};
  const size_t bytes = static_cast<size_t>(size * size * 3) * sizeof(float);
  TF_Tensor* gray = TF_AllocateTensor(TF_FLOAT, shape, 4, bytes);
  float* pixel = static_cast<float*>(TF_TensorData(gray));
  for (int64_t i = 0; i < size * size * 3; ++i) pixel[i] = 128.0f;
  TF_Tensor* probabilities = Run(session, Find(graph, argv[3]), gray, {Find(graph, argv[4])})[0];
  const float* value = static_cast<float*>(TF_TensorData(probabilities));
  for (int64_t i = 0; i < TF_Dim(probabilities, 1); ++i) std::printf("%.9g\n", value[i]);

  const int64_t count = argc - 9;
  TF_Tensor* files = TF_AllocateTensor(TF_STRING, &count, 1, count * sizeof(TF_TString));
  TF_TString* file = static_cast<TF_TString*>(TF_TensorData(files));
  for (int64_t i = 0; i < count; ++i) {
    std::ifstream stream(argv[9 + i], std::ios::binary);
    const std::string data((std::istreambuf_iterator<char>(stream)), {});
    TF_StringInit(&file[i]);
    TF_StringCopy(&file[i], data.data(), data.size());
  }
  const std::vector<TF_Tensor*> answer =
      Run(session, Find(graph, argv[5]), files,
          {Find(graph, argv[6]), Find(graph, argv[7]), Find(graph, argv[8])});
  const int64_t best = TF_Dim(answer[0], 1);  // row by row: a row begins with the best class
  const float* score = static_cast<float*>(TF_TensorData(answer[1]));
  for (int64_t i = 0; i < count; ++i) {
    std::printf("%s\n%s\n%.9g\n", Text(answer[2], i).c_str(), Text(answer[0], i * best).c_str(),
                score[i * best]);
  }
  return 0;
}
